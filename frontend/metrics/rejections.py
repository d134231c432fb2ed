"""Why requests are refused, as far as the status of the answer says it."""

_REASONS = {
    400: "invalid",
    404: "not_found",
    413: "too_large",
    415: "media_type",
    422: "invalid",
    429: "busy",
    503: "unavailable",
}
# A probe that is answered with 503 has been told what it asked.
_PROBES = frozenset({"none", "/ping"})

REASONS = (*dict.fromkeys(_REASONS.values()), "stopping")


def rejection_reason(handler: str, method: str, status: int) -> str | None:
    """None if it is no refusal: what is refused are requests that ask for something to be done."""
    return _REASONS.get(status) if method == "POST" and handler not in _PROBES else None
