"""Define the types of an ASGI application and its messages."""

from collections.abc import Awaitable, Callable
from typing import Any

ASGIScope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
# Quart annotates its own application with TypedDicts, which plain dictionaries do not match.
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
