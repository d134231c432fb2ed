"""Answer a request before the application has seen it."""

import asyncio
import json
from typing import Any

from headrace.frontend.errors import ApiError
from headrace.frontend.middleware.asgi import Receive, Send


async def answer_early(receive: Receive, send: Send, error: ApiError, body: dict[str, Any]) -> None:
    """Send an error. The request's body is read meanwhile, and dropped."""
    reading = asyncio.create_task(_discard(receive))  # the response waits for the whole body
    try:
        await send_error(send, error, body)
    finally:
        reading.cancel()


async def send_error(send: Send, error: ApiError, body: dict[str, Any]) -> None:
    """Send an error, past all layers that would make one."""
    data = json.dumps(body, separators=(",", ":")).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(data)),
        **error.headers,
    }
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": data, "more_body": False})


async def _discard(receive: Receive) -> None:
    """Read the request's body and drop it."""
    while (await receive()).get("more_body", False):
        pass
