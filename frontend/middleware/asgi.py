"""Define the types of an ASGI application and its messages."""

from collections.abc import Awaitable, Callable
from typing import Any

ASGIScope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
# Quart annotates its own application with TypedDicts, which plain dictionaries do not match.
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

# In a scope's `state`: a function that writes a part of a response's body straight to its
# connection if that needs no waiting, and returns whether it has. It may be called once the
# response has been started, while no part of it is being sent.
WRITE_BODY_KEY = "headrace.write_body"
WriteBody = Callable[[bytes], bool]

# In a scope's `state`: a function that tells a client to send its body, if it waits for that.
CONTINUE_KEY = "headrace.continue"
Continue = Callable[[], Awaitable[None]]

# In a scope's `state`: a function that closes the connection when nothing is in flight on it, where
# no header says that (HTTP/2).
LEAVE_KEY = "headrace.leave"


class NotingSend:
    """Sends messages, and notes whether a response has begun.

    has_begun: whether its status has been sent, so that no other response can be.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        self.has_begun = True
        await self._send(message)
