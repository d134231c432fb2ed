"""Connections that fail by themselves."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypercorn.asyncio.tcp_server import TCPServer

from headrace.frontend.process.connection import Connection


async def connection(socket: Any) -> Connection:
    writer = SimpleNamespace(get_extra_info=lambda name: socket)
    nothing: Any = None
    loop = asyncio.get_running_loop()
    return Connection(nothing, loop, nothing, nothing, nothing, nothing, writer)  # type: ignore[arg-type]


async def test_a_client_that_has_gone_before_it_was_begun(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its transport has no socket any more."""
    await (await connection(None))
    assert caplog.text == ""


async def test_one_that_fails_takes_no_other_with_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(self: TCPServer) -> None:
        raise ValueError("a fault of its own")

    monkeypatch.setattr(TCPServer, "run", run)
    one = await connection(object())
    await asyncio.gather(one.run(), asyncio.sleep(0))
    assert "a fault of its own" in caplog.text


async def test_one_that_is_cancelled_ends_without_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As connections are that are open when their process ends."""

    async def run(self: TCPServer) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(TCPServer, "run", run)
    task = asyncio.create_task((await connection(object())).run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert not task.cancelled()
    assert task.exception() is None
