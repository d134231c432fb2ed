"""Requests for text that need not be looked at, because the pool is full.

Sits outside Quart, on ASGI itself: a refusal that costs next to nothing leaves its time to the
requests that were taken.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

from headrace.frontend.anthropic_api import errors as messages_errors
from headrace.frontend.errors import ApiError, from_pool
from headrace.frontend.middleware import address
from headrace.frontend.middleware.request_scope import KEY, RequestScope
from headrace.frontend.pool.interface import Pool
from headrace.frontend.process.drain import Drain

Scope = dict[str, Any]
Body = Callable[[ApiError, str], dict[str, Any]]


def _plain(error: ApiError, request_id: str) -> dict[str, Any]:
    return error.body()


# The bodies of refusals, by the rules of routes; a rule without variables is its path. Responses
# are not among them: one in the background is not refused, but waits for room.
_BODIES: dict[str, Body] = {
    "/v1/chat/completions": _plain,
    "/v1/chat/completions/batch": _plain,
    "/v1/completions": _plain,
    "/invocations": _plain,
    "/v1/messages": messages_errors.body,
}


class FullPoolMiddleware:
    """Wraps an ASGI application; to be wrapped by those that know a request's scope and address."""

    def __init__(self, app: Any, pool: Pool, drain: Drain) -> None:
        self._app, self._pool, self._drain = app, pool, drain

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        kept = cast(RequestScope, scope[KEY])
        kept.handler = scope["path"]
        reading = asyncio.create_task(_drop(receive))  # who refuses waits until all has come
        try:
            await _answer(send, refusal, kept)
        finally:
            reading.cancel()

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Why a request is not even looked at; None if it is."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in _BODIES:
            return None
        if self._drain.has_begun or address.KEY in scope:  # others refuse it, for another reason
            return None
        busy = self._pool.why_busy()
        return None if busy is None else from_pool(busy)


async def _drop(receive: Any) -> None:
    """The request's body, read and forgotten."""
    while (await receive()).get("more_body", False):
        pass


async def _answer(send: Any, error: ApiError, kept: RequestScope) -> None:
    told = _BODIES[kept.handler](error, kept.request_id)
    body = json.dumps(told, separators=(",", ":")).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **error.headers,
    }
    if kept.handler == "/v1/messages":
        headers["request-id"] = kept.request_id
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": False})
