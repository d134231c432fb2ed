"""Turn exceptions into error responses; nothing else in a frontend does."""

import http
import json
import logging
from typing import Any

from quart import Quart, Response
from werkzeug.exceptions import HTTPException

from headrace.frontend.errors import FAILURE, ApiError, BodyTooLarge, InternalError, from_pool
from headrace.frontend.pool.interface import PoolError

log = logging.getLogger("headrace.frontend")


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response; non-ASCII text stays as it is."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text, status, headers, content_type="application/json")


def api_error(error: Exception) -> ApiError:
    """Map any exception to the ApiError shown to the client; log it if it is unexpected."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PoolError):
        return from_pool(error)
    log.error("unhandled exception in a request", exc_info=error)
    return InternalError(FAILURE)


def install_error_handlers(app: Quart, max_body_bytes: int) -> None:
    """Answer every exception that a route raises."""

    async def on_error(error: Exception) -> Response:
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
    shown = ApiError(f"{phrase}.")
    shown.status, shown.kind = status, phrase
    return shown


def _http_error_response(error: HTTPException, max_body_bytes: int) -> Response:
    """Return the response to an HTTP error that Quart raises before or without a route."""
    shown = http_error(error, max_body_bytes)
    if shown.status in (404, 405):
        headers = {name: value for name, value in error.get_headers() if name == "Allow"}
        return json_response({"detail": shown.kind}, shown.status, headers)
    return json_response(shown.body(), shown.status)
