"""Describe the work of a response, so that any frontend can run it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace.frontend.principal import NOBODY, Principal
from headrace.frontend.responses.output.response_body import COMPLETED, INCOMPLETE, ResponseBody
from headrace.frontend.responses.store.rows import StoredResponse
from headrace.frontend.schemas.responses import Item, ResponsesRequest


@dataclass(frozen=True, slots=True)
class Job:
    """The work of one response.

    body: the response as it was created.
    earlier: the items that it continues, of previous responses or of a conversation.
    inputs: its own input items.
    seed: the request's or one that was chosen for it.
    fingerprint: frontends with the same one can run it.
    conversation_end: the number of the next item of its conversation, if it has one.
    principal: whose response it is.
    """

    body: ResponseBody
    request: ResponsesRequest
    earlier: Sequence[Item]
    inputs: Sequence[Item]
    seed: int
    fingerprint: str
    conversation_end: int | None = None
    principal: Principal = NOBODY

    @property
    def response_id(self) -> str:
        return str(self.body["id"])

    def to_json(self) -> dict[str, Any]:
        """Return what the store keeps besides body and items."""
        return {
            "request": self.request.model_dump(by_alias=True, exclude_unset=True),
            "seed": self.seed,
            "conversation_end": self.conversation_end,
            "key": self.principal.key_name,
        }

    def new_items(self, body: ResponseBody) -> Sequence[Item]:
        """Return the items that the response adds to its conversation. body: as it has ended."""
        has_output = body["status"] in (COMPLETED, INCOMPLETE)
        return [*self.inputs, *body["output"]] if has_output else ()

    @classmethod
    def from_stored(
        cls, stored: StoredResponse, earlier: Sequence[Item], principal: Principal
    ) -> "Job":
        """Restore a job. earlier: comes from the rows of previous responses or a conversation."""
        request = ResponsesRequest.model_validate(stored.job["request"])
        seed = stored.job["seed"]
        end = stored.job.get("conversation_end")
        inputs, found = stored.inputs, stored.fingerprint
        return cls(stored.body, request, earlier, inputs, seed, found, end, principal)
