"""Answer a request of a batch as its HTTP route would, without HTTP.

The application handles it like any other, so that a line gets the answer that it would get on its
own. Only the layers around the application are left out: they would reject a line while the pool is
full, and count it as an HTTP request.
"""

import contextlib
import json
import time
from functools import partial
from typing import Any, NamedTuple, cast

from quart import Quart, Response
from werkzeug.datastructures import Headers

from headrace.frontend.batches.input_lines import encode_body
from headrace.frontend.errors import ApiError, BadRequest
from headrace.frontend.middleware.request_scope import KEY, RequestScope
from headrace.protocol.api_keys import ApiKey
from headrace.protocol.to_worker import BATCH_PRIORITY

# Fields of a request that need a connection, or work that outlives it.
_EXCLUDED = ("stream", "background")
# Answers that are not JSON have no place in a file of results.
_BINARY = ("bytes", "bytes_only")
_ENCODED = ("/v1/embeddings", "/pooling")
MAX_RETRY_S = 60.0
_OVERLOADED = (429, 503)


class LineCall(NamedTuple):
    """A request of a batch, for a route. key: that of the batch."""

    endpoint: str
    body: dict[str, Any]
    request_id: str
    key: ApiKey | None = None


class LineAnswer(NamedTuple):
    """The answer to a line. text: its body, JSON. retry_after_s: when to send it again, if it could
    not be run now; None if this is its answer. is_key_limited: whether the limits of its key are
    why, so that lines of other keys need not wait."""

    status: int
    request_id: str
    text: str
    retry_after_s: float | None
    is_key_limited: bool = False


async def call_route(app: Quart, call: LineCall) -> LineAnswer:
    """Return the answer of a route to a body."""
    endpoint, body, request_id, key = call
    for field in _EXCLUDED:
        if body.get(field):
            return _rejection(BadRequest(f"{field}: must be false in a batch.", field), request_id)
    if endpoint in _ENCODED and body.get("encoding_format") in _BINARY:
        error = BadRequest(
            "encoding_format: must be float or base64 in a batch.", "encoding_format"
        )
        return _rejection(error, request_id)
    if endpoint == "/v1/responses":
        # The output file has the answer: ten thousand rows in the store would push others out.
        body = {"store": False, **body}
    scope = RequestScope(
        request_id, time.monotonic(), priority=BATCH_PRIORITY, key=key, is_internal=True
    )
    try:
        request = _request(app, endpoint, encode_body(body), scope)
        response = cast(Response, await app.handle_request(request))
        text = await response.get_data(as_text=True)
    finally:
        for cleanup in scope.cleanups:
            cleanup()
    retry_after_s = None
    if response.status_code in _OVERLOADED:
        retry_after_s = _seconds(response.headers.get("Retry-After"))
    is_key_limited = scope.rejection_reason == "rate_limit"
    return LineAnswer(response.status_code, request_id, text, retry_after_s, is_key_limited)


def _request(app: Quart, endpoint: str, data: bytes, scope: RequestScope) -> Any:
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(data))})
    asgi: Any = {
        "type": "http",
        "method": "POST",
        "path": endpoint,
        "headers": [],
        "client": None,
        KEY: scope,
    }
    limit = app.config["MAX_CONTENT_LENGTH"]
    make = partial(app.request_class, "POST", "http", endpoint, b"", headers, "", "1.1", asgi)
    request = make(max_content_length=limit, send_push_promise=_push_nothing)
    request.body.set_result(data)
    return request


async def _push_nothing(path: str, headers: Headers) -> None:
    """Do nothing: there is no connection."""


def _rejection(error: ApiError, request_id: str) -> LineAnswer:
    return LineAnswer(error.status, request_id, json.dumps(error.body()), None)


def _seconds(retry_after: str | None) -> float:
    with contextlib.suppress(TypeError, ValueError):
        return min(max(float(retry_after or 1.0), 0.1), MAX_RETRY_S)
    return 1.0
