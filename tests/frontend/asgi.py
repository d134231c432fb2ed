"""A request straight to an ASGI application, as a server sends it; the test decides when the
client leaves."""

import asyncio
import json
from typing import Any

from quart import Quart

HANG_S = 60  # longer than any answer takes on a busy machine


class Exchange:
    """One request: what was sent back so far, and a way to disconnect."""

    def __init__(
        self,
        app: Quart,
        path: str,
        body: bytes,
        headers: dict[str, str],
        has_more: bool = False,
    ) -> None:
        """has_more: the body is longer, but no more of it comes."""
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self._incoming: asyncio.Queue[Any] = asyncio.Queue()
        self._progress = asyncio.Event()
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": has_more})
        scope: Any = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
            "client": ("127.0.0.1", 1),
            "asgi": {"version": "3.0"},
        }
        self.task = asyncio.create_task(app(scope, self._incoming.get, self._send))

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message["body"]:
            self.chunks.append(message["body"])
        self._progress.set()

    async def wait_for_chunks(self, count: int) -> None:
        while len(self.chunks) < count:
            self._progress.clear()
            await asyncio.wait_for(self._progress.wait(), HANG_S)

    async def disconnect(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(self.task, HANG_S)

    async def finish(self) -> None:
        await asyncio.wait_for(self.task, HANG_S)


def post(app: Quart, path: str, body: dict[str, Any]) -> Exchange:
    return Exchange(app, path, json.dumps(body).encode(), {"content-type": "application/json"})
