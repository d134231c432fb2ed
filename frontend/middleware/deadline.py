"""Until when a request is to be answered."""

from quart import request

from headrace.frontend.errors import BadRequest
from headrace.frontend.middleware import request_scope

HEADER = "X-Request-Timeout-Ms"
_LONGEST_MS = 7 * 24 * 3600 * 1000


def current_deadline(timeout_s: float | None) -> float | None:
    """When the request that is being answered has to have ended, on the clock of
    `time.monotonic`; None: never. timeout_s: what the operator allows any request.

    BadRequest if the client's own limit is none.
    """
    allowed = [each for each in (timeout_s, _asked_s()) if each is not None]
    return request_scope.current().started + min(allowed) if allowed else None


def _asked_s() -> float | None:
    text = request.headers.get(HEADER)
    if text is None:
        return None
    milliseconds = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else 0
    if not 1 <= milliseconds <= _LONGEST_MS:
        raise BadRequest(f"{HEADER} must be an integer from 1 to {_LONGEST_MS}.", HEADER)
    return milliseconds / 1000
