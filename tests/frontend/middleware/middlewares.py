"""An operator's middleware, as --middleware names it."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

Next = Callable[[Request], Awaitable[Response]]


async def note(request: Request, call_next: Next) -> Response:
    """Reject requests without a team; show it in the answers to others."""
    team = request.headers.get("x-team")
    if team == "none":
        return JSONResponse({"error": "no team"}, status_code=403)
    response = await call_next(request)
    response.headers["X-Team"] = team or ""
    return response


async def in_capitals(request: Request, call_next: Next) -> Response:
    """Change the text of streams."""
    response: Any = await call_next(request)

    async def parts() -> Any:
        async for part in response.body_iterator:
            yield part.upper()

    return StreamingResponse(parts(), response.status_code, {"X-Upper": "1"})


async def failing(request: Request, call_next: Next) -> Response:
    raise RuntimeError("secret")


class Reversed:
    """A plain ASGI class."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_order(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-order", b"class")]
            await send(message)

        await self.app(scope, receive, send_with_order)


class Later(BaseHTTPMiddleware):
    """One of Starlette's classes."""

    async def dispatch(self, request: Request, call_next: Next) -> Response:
        response = await call_next(request)
        response.headers.append("X-Order", "later")
        return response


class NeedsMore:
    def __init__(self, app: Any, secret: str) -> None:
        """Cannot be made from the application alone."""


def not_async(request: Request, call_next: Next) -> None:
    """No middleware."""


VALUE = 5
