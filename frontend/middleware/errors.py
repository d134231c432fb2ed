"""Errors to answers: the one place where an exception becomes a status and a body."""

import http
import json
import logging
from typing import Any

from quart import Quart, Response
from werkzeug.exceptions import HTTPException

from headrace.frontend.errors import FAILURE, ApiError, BodyTooLarge, InternalError, from_pool
from headrace.frontend.pool.interface import PoolError

log = logging.getLogger(__name__)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer of JSON, with non-ASCII text as it is."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text, status, headers, content_type="application/json")


def api_error(error: Exception) -> ApiError:
    """What a client is told of any exception. Only the log learns more of an unexpected one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PoolError):
        return from_pool(error)
    log.error("unexpected error in a request", exc_info=error)
    return InternalError(FAILURE)


def install_error_handlers(app: Quart, max_body_bytes: int) -> None:
    """Answer every exception of the routes."""

    async def on_error(error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return _http_error(error, max_body_bytes)
        answer = api_error(error)
        return json_response(answer.body(), answer.status, answer.headers)

    app.register_error_handler(Exception, on_error)


def http_error(error: HTTPException, max_body_bytes: int) -> ApiError:
    """What a client is told of an error of HTTP itself."""
    status = error.code or 500
    if status == 413:
        return BodyTooLarge(f"The body is larger than {max_body_bytes} bytes.")
    phrase = http.HTTPStatus(status).phrase
    told = ApiError(f"{phrase}.")
    told.status, told.kind = status, phrase
    return told


def _http_error(error: HTTPException, max_body_bytes: int) -> Response:
    """Errors of HTTP itself, raised by Quart before a route or for want of one."""
    told = http_error(error, max_body_bytes)
    if told.status in (404, 405):
        headers = {name: value for name, value in error.get_headers() if name == "Allow"}
        return json_response({"detail": told.kind}, told.status, headers)
    return json_response(told.body(), told.status)
