"""Put the operator's limits in force for each request."""

from headrace.frontend.middleware.asgi import ASGIApp, ASGIScope, Receive, Send
from headrace.frontend.schemas.limits import limits_in_force
from headrace.protocol.limit_options import LimitOptions


class LimitsMiddleware:
    """Wraps an ASGI application whose requests are subject to limits."""

    def __init__(self, app: ASGIApp, limits: LimitOptions) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        with limits_in_force(self._limits):
            await self._app(scope, receive, send)
