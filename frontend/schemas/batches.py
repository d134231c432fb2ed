"""The request of POST /v1/batches."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from headrace.frontend.schemas.fields import Int, RequestModel, bad_value

ENDPOINTS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    *("/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/classify", "/pooling"),
)
MAX_METADATA = 16
# How long output files may be kept.
MIN_KEPT_S, MAX_KEPT_S = 3600, 2592000
_WINDOW = re.compile(r"([1-9]\d{0,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_WINDOW_S = 30 * 86400


def _check_endpoint(value: str) -> str:
    if value not in ENDPOINTS:
        raise bad_value(f"must be one of {', '.join(ENDPOINTS)}")
    return value


def _check_window(value: str) -> str:
    match = _WINDOW.fullmatch(value)
    if match is None or int(match[1]) * _SECONDS[match[2]] > MAX_WINDOW_S:
        raise bad_value('must be a time such as "24h", at most 30 days')
    return value


class ExpiresAfter(RequestModel):
    """When a file expires. seconds: after its creation."""

    anchor: Literal["created_at"]
    seconds: Annotated[Int, Field(ge=MIN_KEPT_S, le=MAX_KEPT_S)]


class BatchRequest(RequestModel):
    """A request to run all requests of a file.

    completion_window: after this time it ends with what is done: "24h", or another time.
    """

    input_file_id: Annotated[str, Field(max_length=64)]
    endpoint: Annotated[str, AfterValidator(_check_endpoint)]
    completion_window: Annotated[str, AfterValidator(_check_window)]
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(max_length=64)],
                Annotated[str, Field(max_length=512)],
            ],
            Field(max_length=MAX_METADATA),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None

    @property
    def window_s(self) -> float:
        """The completion window in seconds."""
        unit = self.completion_window[-1]
        return float(int(self.completion_window[:-1]) * _SECONDS[unit])

    def options(self) -> dict[str, Any]:
        """Return what the store keeps of it."""
        kept = self.output_expires_after
        return {
            "endpoint": self.endpoint,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "metadata": self.metadata,
            "output_expires_after_s": None if kept is None else kept.seconds,
        }
