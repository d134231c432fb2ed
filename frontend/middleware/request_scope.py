"""Keep a scope for every HTTP request: its id, its cleanups, its metrics.

Sits outside Quart, on ASGI itself, so that the cleanups of a request's route run in any case: after
a response, a failure, or a disconnect of the client.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

from quart import has_request_context, request

from headrace.frontend.errors import ApiError
from headrace.frontend.metrics import Metrics
from headrace.frontend.metrics.rejections import RejectionReason
from headrace.frontend.middleware import ignored_fields
from headrace.frontend.middleware.access_log import AccessLog
from headrace.frontend.middleware.asgi import (
    LEAVE_KEY,
    WRITE_BODY_KEY,
    ASGIApp,
    ASGIScope,
    Message,
    Receive,
    Send,
    WriteBody,
)
from headrace.frontend.principal import Principal
from headrace.frontend.process.drain import Drain
from headrace.frontend.rate_limits.rate_limits import Slot
from headrace.protocol.api_keys import ApiKey
from headrace.protocol.logs.record import LoggedRequest

KEY = "headrace.request"
MAX_ID_CHARS = 128
MAX_IGNORED = 100  # names of ignored fields, more than the header has room for

# How long a response waits for the rest of a body that nothing needs any more. One that comes first
# closes the connection, and much of what is on its way has arrived by then.
DRAIN_TIMEOUT_S = 0.1


@dataclass(slots=True)
class RequestScope:
    """The state of one HTTP request.

    started: its arrival, by `time.monotonic`.
    handler: the rule of its route, "none" if no route matches.
    cleanups: called when the request has ended in any way; they must neither fail nor block.
    rejection_reason: why it was rejected, where the status does not show it.
    group: whose workers run it, once that is known.
    interruption: the error with which it must end before it generates; None if it may generate.
    strict_fields: whether unknown fields of its body are errors.
    ignored_fields: the unknown fields of its body, which the response names.
    priority: in place of the one that the body asks for; None: none.
    names: the ids by which its client may abort it: its own, and those of its responses.
    write_body: see WRITE_BODY_KEY; None where the server has no such function.
    key: with which its client has authenticated itself; None: the server has no keys, or the route
        needs none.
    is_internal: whether the server itself has made it, for a client whose access was checked.
    headers: each returns headers of its answer, when that begins.
    slot: its place among its key's requests at once; None before it has one.
    asked_tokens: the least that it has asked for so far, of its key's tokens a minute.
    """

    request_id: str
    started: float
    handler: str = "none"
    cleanups: list[Callable[[], None]] = field(default_factory=list)
    rejection_reason: RejectionReason | None = None
    group: str = ""
    interruption: ApiError | None = None
    write_body: WriteBody | None = None
    strict_fields: bool = False
    ignored_fields: list[str] = field(default_factory=list)
    priority: int | None = None
    key: ApiKey | None = None
    headers: list[Callable[[], dict[str, str]]] = field(default_factory=list)
    slot: Slot | None = None
    asked_tokens: int = 0
    is_internal: bool = False
    names: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = {self.request_id}

    @property
    def principal(self) -> Principal:
        """Whose request it is."""
        return Principal.of(self.key)

    @property
    def is_batch_line(self) -> bool:
        """Whether it is a line of a batch, not an HTTP request."""
        return self.priority is not None

    def interrupt(self, error: ApiError) -> None:
        """Make the request end with this error before it generates."""
        self.interruption = error

    def ignore_fields(self, names: Iterable[str]) -> None:
        """Let the response name these fields as ignored, as far as there is room."""
        room = MAX_IGNORED - len(self.ignored_fields)
        fresh = [name for name in names if name not in self.ignored_fields]
        self.ignored_fields += fresh[: max(0, room)]


def current() -> RequestScope:
    """Return the scope of the current request."""
    return cast(RequestScope, cast(ASGIScope, request.scope)[KEY])


def current_tenant() -> str:
    """Return the tenant of the current request; "" on a server without keys."""
    return current().principal.tenant


def current_or_none() -> RequestScope | None:
    """Return the scope of the current request; None in work that outlives its request."""
    return current() if has_request_context() else None


def register_response_id(response_id: str) -> str:
    """Let the client abort the current request by the id of its response; return the id."""
    scope = current_or_none()
    if scope is not None:
        scope.names.add(response_id)
    return response_id


def current_request_id() -> str:
    """Return the id of the current request; "none" in work that outlives its request."""
    return current().request_id if has_request_context() else "none"


class RequestScopeMiddleware:
    """Wraps an ASGI application and gives each request its scope.

    strict_fields: whether unknown fields of bodies are errors.
    access_log: None: there is none.
    writes_directly: whether streams may pass by the application's own layers; see WRITE_BODY_KEY.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        drain: Drain,
        strict_fields: bool = False,
        access_log: AccessLog | None = None,
        writes_directly: bool = True,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._drain = drain
        self._strict_fields = strict_fields
        self._access_log = access_log
        self._writes_directly = writes_directly

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_scope = RequestScope(
            _request_id(scope), time.monotonic(), strict_fields=self._strict_fields
        )
        logged = LoggedRequest(request_scope.request_id)
        if self._writes_directly:
            request_scope.write_body = scope.get("state", {}).get(WRITE_BODY_KEY)
        entry = None if self._access_log is None else self._access_log.entry(scope)
        if entry is not None:
            send = entry.counting(send)
            if request_scope.write_body is not None:
                request_scope.write_body = entry.counting_writes(request_scope.write_body)
        scope[KEY] = request_scope
        body = _RequestBody(receive, expected=_sends_body(scope))
        status = 500
        is_before_end = self._drain.begin_request()

        async def begin(message: Message) -> None:
            nonlocal status
            status = message["status"]
            headers = [*message["headers"], (b"x-request-id", request_scope.request_id.encode())]
            if request_scope.ignored_fields:
                value = ignored_fields.header_value(request_scope.ignored_fields)
                headers.append((ignored_fields.HEADER.lower().encode(), value.encode()))
            for made in request_scope.headers:
                headers += [(name.encode(), value.encode()) for name, value in made().items()]
            if not self._drain.keeps_connections:
                headers += _leave(scope)
            await body.drain()
            await send({**message, "headers": headers})

        def send_with_id(message: Message) -> Awaitable[None]:
            is_start = message["type"] == "http.response.start"
            return begin(message) if is_start else send(message)

        try:
            await self._app(scope, body.receive, send_with_id)
        finally:
            self._drain.end_request(is_before_end)
            for cleanup in request_scope.cleanups:
                cleanup()
            handler, method = request_scope.handler, scope["method"]
            duration_s = time.monotonic() - request_scope.started
            self._metrics.count_http_request(handler, method, status, duration_s)
            reason = request_scope.rejection_reason
            self._metrics.count_rejection(handler, method, status, reason)
            if entry is not None:
                entry.write(duration_s, request_scope.key)
            logged.end()


class _RequestBody:
    """Notes when the request's body has been received."""

    def __init__(self, receive: Receive, expected: bool) -> None:
        self._receive = receive
        self._ended = asyncio.Event()
        if not expected:
            self._ended.set()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._ended.set()
        return message

    async def drain(self) -> None:
        """Wait until the whole body has been received; the caller of `receive` discards it."""
        if self._ended.is_set():
            return
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:
            return


def _leave(scope: ASGIScope) -> list[tuple[bytes, bytes]]:
    """Let a connection end after the current request; return the headers that say so."""
    if scope["http_version"].startswith("1"):
        return [(b"connection", b"close")]
    scope.get("state", {}).get(LEAVE_KEY, lambda: None)()
    return []


def _sends_body(scope: ASGIScope) -> bool:
    """Return whether a body is on its way, and its client has not asked whether to send it."""
    names = {name for name, _ in scope["headers"]}
    has_body = not names.isdisjoint((b"content-length", b"transfer-encoding"))
    return has_body and b"expect" not in names


def _request_id(scope: ASGIScope) -> str:
    """Return the client's id if it is fit for a header and for logs; else a new id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin1")
            if 0 < len(text) <= MAX_ID_CHARS and text.isascii() and text.isprintable():
                return cast(str, text)
    return uuid.uuid4().hex
