"""Answer requests that are cut off because the time to finish them is over.

A frontend that ends interrupts its requests, which then answer by themselves. What takes longer
than that, for instance a write to a slow disk, is cancelled: without an answer of ours, clients
would get an empty 500, which tells them not to retry.
"""

import asyncio
from collections.abc import Mapping

from headrace.frontend.errors import Stopping
from headrace.frontend.middleware.asgi import ASGIApp, ASGIScope, NotingSend, Receive, Send
from headrace.frontend.middleware.early_answer import send_error
from headrace.frontend.middleware.full_pool import ErrorBody
from headrace.frontend.middleware.request_scope import KEY, RequestScope
from headrace.frontend.process.drain import Drain


class CutOffMiddleware:
    """Wraps an ASGI application; must be inside the scope middleware.

    shapes: makes the bodies of errors, by the beginning of a path; others have OpenAI's.
    """

    def __init__(self, app: ASGIApp, drain: Drain, shapes: Mapping[str, ErrorBody]) -> None:
        self._app, self._drain, self._shapes = app, drain, shapes

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        noting = NotingSend(send)
        try:
            await self._app(scope, receive, noting)
        except asyncio.CancelledError:
            if self._drain.is_over and not noting.has_begun:
                await self._answer(scope, send)
            raise

    async def _answer(self, scope: ASGIScope, send: Send) -> None:
        error, request = Stopping(), scope[KEY]
        assert isinstance(request, RequestScope)
        path: str = scope["path"]
        for start, shape in self._shapes.items():
            if path.startswith(start):
                error.headers["request-id"] = request.request_id
                await send_error(send, error, shape(error, request.request_id))
                return
        await send_error(send, error, error.body())
