"""Reject generating requests unread while the pool is full.

Sits outside Quart, on ASGI itself: rejections that cost next to nothing leave the CPU time to the
accepted requests.
"""

from collections.abc import Callable
from typing import Any, cast

from headrace.frontend.anthropic_api import errors as messages_errors
from headrace.frontend.errors import ApiError, from_pool
from headrace.frontend.middleware import address
from headrace.frontend.middleware.asgi import ASGIApp, ASGIScope, Receive, Send
from headrace.frontend.middleware.early_answer import answer_early
from headrace.frontend.middleware.request_scope import KEY, RequestScope
from headrace.frontend.pool.interface import Pool
from headrace.frontend.process.drain import Drain

ErrorBody = Callable[[ApiError, str], dict[str, Any]]


def _openai_body(error: ApiError, request_id: str) -> dict[str, Any]:
    return error.body()


# The error bodies of generating routes, by path (a rule without variables is its path). Without
# /v1/responses: a background response is not rejected but waits for capacity.
_BODIES: dict[str, ErrorBody] = {
    "/v1/chat/completions": _openai_body,
    "/v1/chat/completions/batch": _openai_body,
    "/v1/completions": _openai_body,
    "/v1/decisions": _openai_body,
    "/v1/embeddings": _openai_body,
    **dict.fromkeys(("/pooling", "/classify", "/score", "/v1/score"), _openai_body),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank", "/v2/embed"), _openai_body),
    "/v1/systemone": _openai_body,
    **dict.fromkeys(("/v1/audio/transcriptions", "/v1/audio/translations"), _openai_body),
    "/invocations": _openai_body,
    "/v1/messages": messages_errors.body,
}


class FullPoolMiddleware:
    """Wraps an ASGI application; must be inside the scope and address middleware."""

    def __init__(self, app: ASGIApp, pool: Pool, drain: Drain) -> None:
        self._app, self._pool, self._drain = app, pool, drain

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        error = self._rejection(scope)
        if error is None:
            await self._app(scope, receive, send)
            return
        request_scope = cast(RequestScope, scope[KEY])
        request_scope.handler = scope["path"]
        body = _BODIES[request_scope.handler](error, request_scope.request_id)
        if request_scope.handler == "/v1/messages":
            error.headers["request-id"] = request_scope.request_id
        await answer_early(receive, send, error, body)

    def _rejection(self, scope: ASGIScope) -> ApiError | None:
        """Return the error to reject a request with, None to pass it on."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in _BODIES:
            return None
        if self._drain.has_begun or address.REJECTION_KEY in scope:  # rejected later
            return None
        busy = self._pool.why_busy()
        return None if busy is None else from_pool(busy)
