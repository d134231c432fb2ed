"""Log the bodies of all answers, for an operator who looks for an error (--log-responses)."""

import logging
from typing import cast

from headrace.frontend.middleware.asgi import ASGIApp, ASGIScope, Message, Receive, Send, WriteBody
from headrace.frontend.middleware.request_scope import KEY, RequestScope
from headrace.frontend.middleware.response_text import StreamText, WholeText
from headrace.protocol.logs.set_up import RESPONSE_LOGGER

log = logging.getLogger(RESPONSE_LOGGER)


class ResponseLogMiddleware:
    """Wraps an ASGI application; must be inside the scope middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_scope = cast(RequestScope, scope[KEY])
        answer = _LoggedAnswer()
        if request_scope.write_body is not None:
            request_scope.write_body = answer.reading_writes(request_scope.write_body)
        try:
            await self._app(scope, receive, answer.reading(send))
        finally:
            log.info("answer to %s: %s", request_scope.request_id, answer.describe())


class _LoggedAnswer:
    """An answer, as far as it has been sent."""

    def __init__(self) -> None:
        self._status: int | None = None
        self._text: WholeText | StreamText = WholeText()

    def reading(self, send: Send) -> Send:
        async def read_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._begin(message)
            elif message["type"] == "http.response.body":
                self._text.add(message.get("body", b""))
            await send(message)

        return read_and_send

    def reading_writes(self, write: WriteBody) -> WriteBody:
        def read_and_write(data: bytes) -> bool:
            is_written = write(data)
            if is_written:
                self._text.add(data)
            return is_written

        return read_and_write

    def describe(self) -> str:
        return "none" if self._status is None else f"{self._status}, {self._text.describe()}"

    def _begin(self, message: Message) -> None:
        self._status = message["status"]
        for name, value in message["headers"]:
            if name.lower() == b"content-type" and value.startswith(b"text/event-stream"):
                self._text = StreamText()
