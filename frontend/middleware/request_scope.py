"""Around every HTTP request: its id, its end, its metrics.

Sits outside Quart, on ASGI itself, so that nothing escapes it: whether an answer was sent, failed
or was cut off by the client, the cleanups that the request's route has left are run.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

from quart import has_request_context, request

from headrace.frontend.errors import ApiError
from headrace.frontend.metrics import Metrics
from headrace.frontend.process.drain import Drain

KEY = "headrace.request"
MAX_ID_CHARS = 128

# How long a client may go on sending a body that has already been refused. An answer that is sent
# before the body is read can get lost: closing a socket with unread bytes resets it.
DRAIN_TIMEOUT_S = 5.0

Message = dict[str, Any]
Scope = dict[str, Any]


@dataclass(slots=True)
class RequestScope:
    """What is kept of one HTTP request.

    started: when it came, on the clock of `time.monotonic`.
    handler: the rule of its route, "none" if there is none.
    cleanups: called when the request has ended in whatever way; they neither fail nor block.
    refusal: why it was refused, where its status does not say it.
    group: whose workers it is for, once that is known.
    interruption: why it is not to begin a text any more; None if it may.
    names: what its client may call it: its id, and those of its answers.
    """

    request_id: str
    started: float
    handler: str = "none"
    cleanups: list[Callable[[], None]] = field(default_factory=list)
    refusal: str | None = None
    group: str = ""
    interruption: ApiError | None = None
    names: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = {self.request_id}

    def interrupt(self, error: ApiError) -> None:
        """Have it end with this error before it begins a text."""
        self.interruption = error


def current() -> RequestScope:
    """The scope of the request that is being answered."""
    return cast(RequestScope, cast(Scope, request.scope)[KEY])


def current_or_none() -> RequestScope | None:
    """The same; None for work that outlives its request."""
    return current() if has_request_context() else None


def register_response_id(answer_id: str) -> str:
    """The same; from now on the client may call its request so."""
    scope = current_or_none()
    if scope is not None:
        scope.names.add(answer_id)
    return answer_id


def current_request_id() -> str:
    """The id of the request that is being answered; "none" for work that outlives its own."""
    return current().request_id if has_request_context() else "none"


class RequestScopeMiddleware:
    """Wraps an ASGI application."""

    def __init__(self, app: Any, metrics: Metrics, drain: Drain) -> None:
        self._app = app
        self._metrics = metrics
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        kept = RequestScope(_request_id(scope), time.monotonic())
        scope[KEY] = kept
        body = _Body(receive, expected=_has_body(scope))
        status = 500
        is_before_end = self._drain.enter()

        async def begin(message: Message) -> None:
            nonlocal status
            status = message["status"]
            headers = [*message["headers"], (b"x-request-id", kept.request_id.encode())]
            if not self._drain.keeps_connections and scope["http_version"].startswith("1"):
                headers.append((b"connection", b"close"))
            await body.drain()
            await send({**message, "headers": headers})

        def send_with_id(message: Message) -> Awaitable[None]:
            is_start = message["type"] == "http.response.start"
            return begin(message) if is_start else cast(Awaitable[None], send(message))

        try:
            await self._app(scope, body.receive, send_with_id)
        finally:
            self._drain.leave(is_before_end)
            for cleanup in kept.cleanups:
                cleanup()
            duration_s = time.monotonic() - kept.started
            self._metrics.count_http_request(kept.handler, scope["method"], status, duration_s)
            self._metrics.count_rejection(kept.handler, scope["method"], status, kept.refusal)


class _Body:
    """Watches the request's body go by."""

    def __init__(self, receive: Any, expected: bool) -> None:
        self._receive = receive
        self._ended = asyncio.Event()
        if not expected:
            self._ended.set()

    async def receive(self) -> Message:
        message = cast(Message, await self._receive())
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._ended.set()
        return message

    async def drain(self) -> None:
        """Wait until all of it has come; whoever calls `receive` drops what is not wanted."""
        if self._ended.is_set():
            return
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:
            return


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


def _request_id(scope: Scope) -> str:
    """The client's own id, if it can stand in a header and in logs; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin1")
            if 0 < len(text) <= MAX_ID_CHARS and text.isascii() and text.isprintable():
                return cast(str, text)
    return uuid.uuid4().hex
