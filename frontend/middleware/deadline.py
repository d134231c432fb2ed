"""Compute when a request must have been answered."""

from quart import request

from headrace.frontend.errors import BadRequest
from headrace.frontend.middleware import request_scope

HEADER = "X-Request-Timeout-Ms"
_MAX_MS = 7 * 24 * 3600 * 1000


def current_deadline(timeout_s: float | None) -> float | None:
    """Return the deadline of the current request, by `time.monotonic`; None if it has none.

    timeout_s: the operator's limit for every request; the client's header may set a lower one.
    Raises BadRequest if the header is invalid.
    """
    limits_s = [limit_s for limit_s in (timeout_s, _client_limit_s()) if limit_s is not None]
    return request_scope.current().started + min(limits_s) if limits_s else None


def _client_limit_s() -> float | None:
    text = request.headers.get(HEADER)
    if text is None:
        return None
    milliseconds = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else 0
    if not 1 <= milliseconds <= _MAX_MS:
        raise BadRequest(f"{HEADER} must be an integer from 1 to {_MAX_MS}.", HEADER)
    return milliseconds / 1000
