"""Derive why a request was rejected from the status of its response."""

from typing import Literal, get_args

RejectionReason = Literal[
    "invalid",
    "not_found",
    "too_large",
    "media_type",
    "busy",
    "rate_limit",
    "unavailable",
    "stopping",
    "no_key",
    "wrong_key",
    "not_admin",
]
REASONS: tuple[RejectionReason, ...] = get_args(RejectionReason)

_REASONS: dict[int, RejectionReason] = {
    400: "invalid",
    404: "not_found",
    413: "too_large",
    415: "media_type",
    422: "invalid",
    429: "busy",
    503: "unavailable",
}
# A 503 is the result that a health probe asks for, not a rejection.
_PROBE_ROUTES = frozenset({"none", "/ping"})


def rejection_reason(handler: str, method: str, status: int) -> RejectionReason | None:
    """Return the reason of a rejection; None if the response is not one.

    Only POST requests can be rejected: others ask for no work.
    handler: the rule of the route.
    """
    return _REASONS.get(status) if method == "POST" and handler not in _PROBE_ROUTES else None
