"""What has to be done for a response: enough to do it on any frontend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace.frontend.responses.output.response_body import ResponseBody
from headrace.frontend.responses.store.rows import StoredResponse
from headrace.frontend.schemas.responses import Item, ResponsesRequest


@dataclass(frozen=True, slots=True)
class Job:
    """body: the response as it was when it was asked for. earlier: the items of the responses that
    it goes on from. inputs: its own. seed: a definite one. fingerprint: of those that can do it.
    """

    body: ResponseBody
    request: ResponsesRequest
    earlier: Sequence[Item]
    inputs: Sequence[Item]
    seed: int
    fingerprint: str

    @property
    def response_id(self) -> str:
        return str(self.body["id"])

    def stored(self) -> dict[str, Any]:
        """What is stored besides body and items, as JSON."""
        return {
            "request": self.request.model_dump(by_alias=True, exclude_unset=True),
            "seed": self.seed,
        }

    @classmethod
    def read(cls, stored: StoredResponse, earlier: Sequence[Item]) -> "Job":
        """The inverse of `stored`. earlier: is stored with the responses that it is of."""
        request = ResponsesRequest.model_validate(stored.job["request"])
        seed = stored.job["seed"]
        return cls(stored.body, request, earlier, stored.inputs, seed, stored.fingerprint)
