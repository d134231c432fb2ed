"""Serialize errors as Anthropic's API does."""

from typing import Any

from quart import Response
from werkzeug.exceptions import HTTPException

from headrace.frontend.anthropic_api.messages_serializer import serialize_events
from headrace.frontend.errors import ApiError
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.errors import api_error, http_error, json_response
from headrace.frontend.streaming import Framing

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def body(error: ApiError, request_id: str) -> dict[str, Any]:
    """Return the body of an error response, which is also the data of a stream's error event."""
    default = "invalid_request_error" if error.status < 500 else "api_error"
    error_type = _TYPES.get(error.status, default)
    shown: dict[str, Any] = {"type": error_type, "message": error.message}
    if error.details is not None:
        shown["details"] = dict(error.details)
    return {"type": "error", "error": shown, "request_id": request_id}


def response(error: Exception, max_body_bytes: int) -> Response:
    """Return the response to any exception of a route."""
    if isinstance(error, HTTPException):
        shown = http_error(error, max_body_bytes)
    else:
        shown = api_error(error)
    request_id = request_scope.current().request_id
    headers = {**shown.headers, "request-id": request_id}
    return json_response(body(shown, request_id), shown.status, headers)


def framing() -> Framing:
    """Return how the current request's stream ends: on failure with an error event.

    Anthropic's API says by events of its own that a stream lives.
    """
    request_id = request_scope.current().request_id
    return Framing(
        error=lambda error: serialize_events([body(error, request_id)]),
        done="",
        keep_alive=serialize_events([{"type": "ping"}]),
    )
