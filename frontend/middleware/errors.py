"""Turn exceptions into error responses; nothing else in a frontend does."""

import http
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from quart import Quart, Response, request
from werkzeug.exceptions import HTTPException

from headrace.frontend.errors import (
    FAILURE,
    ApiError,
    BodyTooLarge,
    InternalError,
    from_os,
    from_pool,
)
from headrace.frontend.limited_log import LimitedLog
from headrace.frontend.middleware import request_scope
from headrace.frontend.pool.interface import PoolError
from headrace.protocol.logs.set_up import STACK_LOGGER

# Returns the response to an exception; gets the size of the largest body, too.
ErrorResponse = Callable[[Exception, int], Response]

log = logging.getLogger("headrace.frontend")
_limited = LimitedLog(log)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response; non-ASCII text stays as it is."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text, status, headers, content_type="application/json")


stack_log = logging.getLogger(STACK_LOGGER)  # silent but for --log-error-stack


def api_error(error: Exception) -> ApiError:
    """Map any exception to the ApiError shown to the client; log it if it is unexpected.

    A failure of ours says nothing but the request's id, by which operators find it in the log.
    """
    if isinstance(error, ApiError | PoolError):
        stack_log.warning("an error answer", exc_info=error)
    if isinstance(error, PoolError):
        error = from_pool(error)
    if isinstance(error, OSError) and (shown := from_os(error)) is not None:
        _limited.warning(f"requests fail for want of resources: {error.strerror}")
        return shown
    if isinstance(error, ApiError) and error.message != FAILURE:
        return error
    request_id = request_scope.current_request_id()
    if not isinstance(error, ApiError):
        log.error("unhandled exception in request %s", request_id, exc_info=error)
    return InternalError(f"{FAILURE} Its id is {request_id}.")


def install_error_handlers(
    app: Quart, max_body_bytes: int, by_path: Mapping[str, ErrorResponse]
) -> None:
    """Answer every exception that a route raises.

    by_path: the responses to errors at a path and below it, where they are of another shape.
    """

    async def on_error(error: Exception) -> Response:
        for path, respond in by_path.items():
            if request.path == path or request.path.startswith(f"{path}/"):
                return respond(error, max_body_bytes)
        if isinstance(error, HTTPException):
            return _http_error_response(error, max_body_bytes)
        shown = api_error(error)
        return json_response(shown.body(), shown.status, shown.headers)

    app.register_error_handler(Exception, on_error)


def http_error(error: HTTPException, max_body_bytes: int) -> ApiError:
    """Map an HTTP error raised by Quart to the ApiError shown to the client."""
    status = error.code or 500
    if status == 413:
        return BodyTooLarge(f"The body is larger than {max_body_bytes} bytes.")
    phrase = http.HTTPStatus(status).phrase
    allowed = {name: value for name, value in error.get_headers() if name == "Allow"}
    shown = ApiError(f"{phrase}.", headers=allowed)
    shown.status, shown.kind = status, phrase
    return shown


def _http_error_response(error: HTTPException, max_body_bytes: int) -> Response:
    """Return the response to an HTTP error that Quart raises before or without a route."""
    shown = http_error(error, max_body_bytes)
    if shown.status in (404, 405):
        return json_response({"detail": shown.kind}, shown.status, shown.headers)
    return json_response(shown.body(), shown.status, shown.headers)
