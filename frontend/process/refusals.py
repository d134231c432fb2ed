"""Answer requests that are not valid HTTP, which never reach the application."""

import http
import json
import uuid
from typing import NamedTuple

from headrace.frontend.anthropic_api import errors as messages_errors
from headrace.frontend.errors import ApiError

_TEXTS = {
    400: "The request is not valid HTTP.",
    408: "The request's headers were sent too slowly.",
    431: "The request's headers are too large.",
    501: "Transfer-Encoding: must be chunked.",
    505: "The version of HTTP must be 1.0, 1.1 or 2.",
}
_MESSAGES = b"/v1/messages"


class Refusal(NamedTuple):
    """The body of an error answer, and its headers besides those of all answers."""

    body: bytes
    headers: list[tuple[bytes, bytes]]


def refusal(status: int, target: bytes) -> Refusal:
    """Return the answer in the shape of the API that the request is for.

    target: of the request, as far as it is known; with the prefix of a proxy, perhaps.
    """
    error = ApiError(_TEXTS.get(status, _TEXTS[400]))
    error.status, error.kind = status, http.HTTPStatus(status).phrase
    path = target.partition(b"?")[0]
    if not (path.endswith(_MESSAGES) or _MESSAGES + b"/" in path):
        return Refusal(_json(error.body()), [])
    request_id = uuid.uuid4().hex
    body = messages_errors.body(error, request_id)
    return Refusal(_json(body), [(b"request-id", request_id.encode())])


def _json(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
