"""Every error that a client can be told of. Their texts carry no path, address or traceback.

ApiError                  status, type and param as the body of the answer shows them
├── BadRequest            400 BadRequestError       a value that cannot be served
├── InvalidBody           400 Bad Request           the body is no request at all
├── NotFound              404 NotFoundError         no such model
├── TookTooLong           408                       it was not done in time
├── Conflict              409                       something else is being done
├── BodyTooLarge          413                       more bytes than the server takes
├── UnsupportedMediaType  415                       a body in a form that is not read
├── TooBusy               429                       every queue is full
├── InternalError         500 InternalServerError   our fault
├── PoolFailed            500 InternalServerError   workers have not done what an operator wanted
├── Unavailable           503                       no worker is there
│   └── Stopping          503                       the server ends
└── DeadlineExceeded      504                       it took longer than it may

Errors of the pool are translated here, and nowhere else.
"""

import math
from typing import Any

from headrace.frontend.pool.interface import (
    PoolBusy,
    PoolError,
    PoolUnavailable,
    RequestLost,
    RequestRejected,
)
from headrace.protocol.to_frontend import Output

FAILURE = "The server failed to answer this request."
_MAX_SHOWN_CHARS = 200


class ApiError(Exception):
    """An error answer: `{"error": {"message", "type", "param", "code"}}`.

    param: the field at fault, None if there is no single one.
    """

    status = 500
    kind = "InternalServerError"

    def __init__(
        self, message: str, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The answer's body."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.status,
        }
        return {"error": error}


class BadRequest(ApiError):
    status = 400
    kind = "BadRequestError"


class InvalidBody(ApiError):
    status = 400
    kind = "Bad Request"


class NotFound(ApiError):
    status = 404
    kind = "NotFoundError"


class TookTooLong(ApiError):
    status = 408
    kind = "Request Timeout"


class Conflict(ApiError):
    status = 409
    kind = "Conflict"


class BodyTooLarge(ApiError):
    status = 413
    kind = "Request Entity Too Large"


class UnsupportedMediaType(ApiError):
    status = 415
    kind = "Unsupported Media Type"


class TooBusy(ApiError):
    status = 429
    kind = "Too Many Requests"


class InternalError(ApiError):
    pass


class PoolFailed(ApiError):
    pass


class Unavailable(ApiError):
    status = 503
    kind = "Service Unavailable"


class Stopping(Unavailable):
    def __init__(self) -> None:
        super().__init__("The server is stopping.", headers={"Retry-After": "1"})


class DeadlineExceeded(ApiError):
    status = 504
    kind = "Gateway Timeout"

    def __init__(self) -> None:
        super().__init__("The request was not answered within its time limit.")


def shortened(name: str) -> str:
    """Names come from the client: they are shown, but not at any length nor with any content."""
    name = name.encode("utf-8", "replace").decode()
    return name if len(name) <= _MAX_SHOWN_CHARS else name[:_MAX_SHOWN_CHARS] + "…"


def from_pool(error: PoolError) -> ApiError:
    """What a client is told of an error of the pool."""
    if isinstance(error, PoolUnavailable):
        return Unavailable(str(error), headers=_retry_after(error.retry_after_s))
    if isinstance(error, PoolBusy):
        return TooBusy(str(error), headers=_retry_after(error.retry_after_s))
    if isinstance(error, RequestRejected):
        return BadRequest(str(error))
    if isinstance(error, RequestLost):
        return InternalError(str(error))
    return InternalError(FAILURE)


def error_of(output: Output) -> ApiError | None:
    """What a client is told of a text that cannot go on; None if it can, or has ended well."""
    if output.finish_reason == "rejected":
        return BadRequest(output.error or FAILURE)
    if output.finish_reason == "error":
        return InternalError(output.error or FAILURE)
    return None


def _retry_after(seconds: float) -> dict[str, str]:
    """HTTP knows whole seconds only."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}
