"""Errors in the shape of Anthropic's API."""

from typing import Any

from quart import Response
from werkzeug.exceptions import HTTPException

from headrace.frontend.anthropic_api.messages_serializer import serialize_events
from headrace.frontend.errors import ApiError
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.errors import api_error, http_error, json_response
from headrace.frontend.streaming import Ending

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def body(error: ApiError, request_id: str) -> dict[str, Any]:
    """An error's answer, or what the event that ends a stream says."""
    other = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _TYPES.get(error.status, other)
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message},
        "request_id": request_id,
    }


def response(error: Exception, max_body_bytes: int) -> Response:
    """The answer to any exception of a route."""
    if isinstance(error, HTTPException):
        told = http_error(error, max_body_bytes)
    else:
        told = api_error(error)
    request_id = request_scope.current().request_id
    return json_response(body(told, request_id), told.status, told.headers)


def ending() -> Ending:
    """Of the current request's stream: one that fails ends with its error, and no other event."""
    request_id = request_scope.current().request_id
    return Ending(error=lambda error: serialize_events([body(error, request_id)]), done="")
