"""What is cut off at a frontend's end is answered as what is interrupted."""

import asyncio
import json
from typing import Any

import pytest

from headrace.frontend.process import drain as drain_module
from headrace.frontend.process.drain import Drain
from tests.frontend.conftest import MAKE_APP

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/responses": {"input": "hello"},
}


async def ask_and_cut_off(make_app: MAKE_APP, path: str, drain: Drain) -> list[dict[str, Any]]:
    """Send a request whose handler is stuck, end its frontend; return what the client gets."""
    app = make_app(drain=drain)
    is_stuck = asyncio.Event()

    async def stuck() -> None:
        is_stuck.set()
        await asyncio.Event().wait()

    app.before_request(stuck)
    body = json.dumps(BODIES[path]).encode()
    headers = [(b"content-type", b"application/json"), (b"host", b"test")]
    headers.append((b"content-length", str(len(body)).encode()))
    scope = {
        **{"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http"},
        **{"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""},
        **{"headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)},
        **{"extensions": {}, "state": {}},
    }
    sent: list[dict[str, Any]] = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async with app.test_app():
        handling = asyncio.create_task(app(scope, receive, send))  # type: ignore[arg-type]
        await is_stuck.wait()
        await drain.finish(0)
        handling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handling
    return sent


@pytest.mark.parametrize("path", BODIES)
async def test_clients_are_told_to_try_again(
    make_app: MAKE_APP, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "LAST_WORDS_S", 0.0)
    start, rest = await ask_and_cut_off(make_app, path, Drain())
    assert start["status"] == 503
    headers = dict(start["headers"])
    assert headers[b"retry-after"] == b"1"
    assert headers[b"x-request-id"]
    error = json.loads(rest["body"])
    assert error["error"]["message"] == "The server is stopping."
    assert ("type" in error) == (path == "/v1/messages")


async def test_what_else_is_cancelled_gets_no_answer(make_app: MAKE_APP) -> None:
    class Unending(Drain):
        async def finish(self, timeout_s: float) -> float:
            return timeout_s

    assert await ask_and_cut_off(make_app, "/v1/responses", Unending()) == []
