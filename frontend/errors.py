"""All errors that clients may see. Their texts contain no path, address or traceback: each passes
through `without_internals` (frontend/redaction.py), wherever it comes from.

ApiError                  status, type and param, as the body of the answer shows them
├── BadRequest            400 BadRequestError       a value that cannot be served
│   └── ThreadsUnsupported                          a conversation that is not kept here
├── InvalidBody           400 Bad Request           the body is not a valid request
├── NotFound              404 NotFoundError         no such model
├── TaskUnsupported          404 NotFoundError         a model that does something else
├── RequestTimeout           408                       it was not finished in time
├── Conflict              409                       another change is in progress
├── BodyTooLarge          413                       more bytes than the server takes
├── UnsupportedMediaType  415                       an unsupported form of body
├── TooManyRequests               429                       every queue is full
├── TooManyHeaders        431                       more headers than the server takes
├── InternalError         500 InternalServerError   our fault
├── PoolFailed            500 InternalServerError   workers have not executed an admin call
├── Unavailable           503                       no worker is running
│   ├── Stopping          503                       the server ends
│   └── OutOfResources    503                       no descriptors, or no memory
├── DeadlineExceeded      504                       it took longer than it may
└── OutOfSpace            507                       a full disk

Errors of the pool are translated here only.
"""

import errno
import math
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.frontend.pool.interface import (
    PoolBusy,
    PoolError,
    PoolUnavailable,
    RequestLost,
    RequestRejected,
)
from headrace.frontend.redaction import without_internals
from headrace.protocol.to_frontend import Output

FAILURE = "The server failed to answer this request."
_MAX_SHOWN_CHARS = 200
_VERBS = {"transcription": "transcribe"}  # of tasks that are named by nouns


class ApiError(Exception):
    """An error answer: `{"error": {"message", "type", "param", "code"}}`.

    param: the field at fault, None if no single field is.
    details: what programs read, in Messages only; None if there is nothing.
    code: of the body; None: the status.
    """

    status = 500
    code: str | None = None
    kind = "InternalServerError"
    details: Mapping[str, Any] | None = None

    def __init__(
        self, message: str, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        message = without_internals(message, is_ours=self.status >= 500)
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = headers or {}

    def renamed(self, message: str, param: str | None) -> "ApiError":
        """Return the same error with other names of fields, whatever its class is made from."""
        error = ApiError.__new__(type(self))
        vars(error).update(vars(self))
        ApiError.__init__(error, message, param, self.headers)
        return error

    def body(self) -> dict[str, Any]:
        """Return the body of the HTTP response."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.status if self.code is None else self.code,
        }
        return {"error": error}


class BadRequest(ApiError):
    status = 400
    kind = "BadRequestError"


class ThreadsUnsupported(BadRequest):
    """Anthropic's clients react to these details by sending the whole conversation."""

    def __init__(self) -> None:
        super().__init__(
            "thread: this server keeps no conversations of /v1/messages, send all messages.",
            "thread",
        )
        self.details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}


class InvalidBody(ApiError):
    status = 400
    kind = "Bad Request"


class NotFound(ApiError):
    status = 404
    kind = "NotFoundError"


class TaskUnsupported(ApiError):
    """A model that is asked for what it does not do.

    The body is also that of a route that there is not: so the reference answers, which has no
    routes for what its only model does not do.
    """

    status = 404
    kind = "NotFoundError"

    def __init__(self, name: str, tasks: Sequence[str], task: str) -> None:
        does = ", ".join(tasks)
        verb = _VERBS.get(task, task)
        text = f"The model {shortened(name)!r} does not {verb}: what it does is {does}."
        super().__init__(text, "model")

    def body(self) -> dict[str, Any]:
        return {"detail": "Not Found", **super().body()}


class RequestTimeout(ApiError):
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


class TooManyRequests(ApiError):
    status = 429
    kind = "Too Many Requests"


class TooManyHeaders(ApiError):
    status = 431
    kind = "Request Header Fields Too Large"


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


class OutOfSpace(ApiError):
    status = 507
    kind = "Insufficient Storage"

    def __init__(self) -> None:
        super().__init__("The server has no space left to store this.")


class OutOfResources(Unavailable):
    """No descriptors or no memory at the moment."""

    def __init__(self) -> None:
        super().__init__(
            "The server has too much to do at the moment.", headers={"Retry-After": "1"}
        )


def from_os(error: OSError) -> ApiError | None:
    """Return what a client is told of a host that lacks something; None for other errors."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace()
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return OutOfResources()
    return None


class DeadlineExceeded(ApiError):
    status = 504
    kind = "Gateway Timeout"

    def __init__(self) -> None:
        super().__init__("The request was not answered within its time limit.")


def shortened(name: str) -> str:
    """Return a client's name as errors show it: cut, and without unencodable characters."""
    name = name.encode("utf-8", "replace").decode()
    return name if len(name) <= _MAX_SHOWN_CHARS else name[:_MAX_SHOWN_CHARS] + "…"


def from_pool(error: PoolError) -> ApiError:
    """Return the ApiError that clients see for a PoolError."""
    if isinstance(error, PoolUnavailable):
        return Unavailable(str(error), headers=_retry_after(error.retry_after_s))
    if isinstance(error, PoolBusy):
        return TooManyRequests(
            without_internals(str(error), is_ours=True), headers=_retry_after(error.retry_after_s)
        )
    if isinstance(error, RequestRejected):
        return BadRequest(without_internals(str(error), is_ours=True))
    if isinstance(error, RequestLost):
        return InternalError(str(error))
    return InternalError(FAILURE)


def error_of(output: Output) -> ApiError | None:
    """Return the ApiError of an output that ends its request in failure; None if it does not."""
    if output.finish_reason == "rejected":
        return BadRequest(without_internals(output.error or FAILURE, is_ours=True))
    if output.finish_reason == "error":
        return InternalError(output.error or FAILURE)
    return None


def _retry_after(seconds: float) -> dict[str, str]:
    """Return the header; HTTP allows whole seconds only."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}
