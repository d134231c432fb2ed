"""Accepting by turns: several loops on one socket share connections out evenly."""

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from headrace.frontend.process.listener import ConnectionCounts, SharedLoop


class Acceptor(threading.Thread):
    """A frontend in small: a SharedLoop in a thread whose connections just stay open."""

    def __init__(self, path: Path, index: int, total: int, listener: socket.socket) -> None:
        super().__init__(daemon=True)
        self.held: set[asyncio.StreamWriter] = set()
        self._counts = ConnectionCounts(path, index, total)
        self._listener = listener.dup()
        self._loop = SharedLoop()
        self._loop.counts = self._counts
        self._ended = asyncio.Event()
        self.serving = threading.Event()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    def stop(self) -> None:
        if not self.is_alive():
            return
        self._loop.call_soon_threadsafe(self._ended.set)
        self.join(5)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._hold, sock=self._listener)
        self.serving.set()
        await self._ended.wait()
        server.close()
        await server.wait_closed()
        for writer in self.held:
            writer.close()

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.held.add(writer)
        writer.write(b"x")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        self.held.discard(writer)
        writer.close()


@pytest.fixture
def acceptors(tmp_path: Path) -> Iterator[tuple[list[Acceptor], tuple[str, int]]]:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        made = [Acceptor(tmp_path / "counts", index, 4, listener) for index in range(4)]
        for acceptor in made:
            acceptor.start()
        for acceptor in made:
            assert acceptor.serving.wait(5)
        yield made, listener.getsockname()
        for acceptor in made:
            acceptor.stop()


def open_connections(address: tuple[str, int], count: int) -> list[socket.socket]:
    """Connections that a server has taken: each has sent its byte."""
    opened = [socket.create_connection(address) for _ in range(count)]
    for connection in opened:
        connection.settimeout(10)
        assert connection.recv(1) == b"x"
    return opened


def test_connections_spread_evenly_and_counts_fall_again(
    acceptors: tuple[list[Acceptor], tuple[str, int]],
) -> None:
    made, address = acceptors
    opened = open_connections(address, 64)
    held = [len(acceptor.held) for acceptor in made]
    assert sum(held) == 64
    assert max(held) - min(held) <= 4
    for connection in opened:
        connection.close()
    again = open_connections(address, 8)
    assert sum(len(acceptor.held) for acceptor in made) >= 8
    for connection in again:
        connection.close()


def test_frontend_that_takes_nothing_holds_nobody_up(
    acceptors: tuple[list[Acceptor], tuple[str, int]],
) -> None:
    made, address = acceptors
    made[0].stop()
    opened = open_connections(address, 12)
    assert sum(len(acceptor.held) for acceptor in made[1:]) == 12
    for connection in opened:
        connection.close()


def test_failure_to_accept_is_not_the_end_of_accepting(
    acceptors: tuple[list[Acceptor], tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = acceptors
    failures = iter([OSError(errno.EMFILE, "too many open files")] * 4)
    accept = socket.socket.accept

    def failing(listener: socket.socket) -> object:
        for failure in failures:
            raise failure
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", failing)
    opened = open_connections(address, 4)
    assert next(failures, None) is None
    for connection in opened:
        connection.close()


def test_stale_slots_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("headrace.frontend.process.listener.time.monotonic", lambda: clock[0])
    idle, busy = (ConnectionCounts(tmp_path / "counts", index, 2) for index in range(2))
    busy.add(3)
    assert not busy.is_our_turn()
    assert idle.is_our_turn()
    clock[0] += 10
    assert busy.is_our_turn()


def test_what_has_been_accepted_is_served_after_the_end(tmp_path: Path) -> None:
    """A connection is no less the frontend's because it has stopped to accept just then."""
    loop = SharedLoop()
    loop.counts = ConnectionCounts(tmp_path / "counts", 0, 1)
    is_lost = asyncio.Event()

    class Greeter(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            of_tcp = cast(asyncio.Transport, transport)
            of_tcp.write(b"x")
            of_tcp.close()

        def connection_lost(self, error: Exception | None) -> None:
            is_lost.set()

    async def serve(listener: socket.socket) -> None:
        server: asyncio.AbstractServer

        def make_protocol() -> Greeter:
            server.close()
            return Greeter()

        server = await loop.create_server(make_protocol, sock=listener)
        client = socket.create_connection(listener.getsockname())
        client.settimeout(10)
        with client:
            assert await asyncio.to_thread(client.recv, 1) == b"x"
        await is_lost.wait()
        assert loop.counts.held == 0

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        runner.run(serve(listener.dup()))
