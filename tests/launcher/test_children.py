"""The launcher's children, real processes."""

import asyncio
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process

import psutil
import pytest

from headrace.launcher.children import Child, Children


async def start(children: Children, process_id: str) -> None:
    await children.start(process_id, "worker", "this", [], {})


async def test_child_that_is_being_started_counts_as_one() -> None:
    """The launcher may greet a new coordinator just then, which would start another."""
    ended = asyncio.Event()

    async def on_exit(child: Child, exit_code: int) -> None:
        ended.set()

    children = Children(on_exit)
    starting = asyncio.create_task(start(children, "chat-0.1"))
    await asyncio.sleep(0)
    assert not starting.done()
    assert children.ids("worker") == ("chat-0.1",)
    assert children.ids("frontend") == ()
    await starting
    assert children.ids("worker") == ("chat-0.1",)
    children.kill_all()
    await asyncio.wait_for(ended.wait(), 10)
    assert children.ids("worker") == ()


async def test_child_that_is_killed_while_it_is_started_ends_as_soon_as_it_is_there() -> None:
    exits: asyncio.Queue[int] = asyncio.Queue()

    async def on_exit(child: Child, exit_code: int) -> None:
        exits.put_nowait(exit_code)

    children, may_start = Children(on_exit), asyncio.Event()

    async def late() -> Process:
        await may_start.wait()
        return await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=PIPE)

    starting = asyncio.create_task(children.add("chat-0.1", "worker", late()))
    await asyncio.sleep(0)
    assert children.kill("chat-0.1")
    may_start.set()
    await starting
    assert await asyncio.wait_for(exits.get(), 10) == -9
    assert not children.kill("chat-0.1")


async def test_start_that_fails_leaves_nothing_to_kill() -> None:
    async def on_exit(child: Child, exit_code: int) -> None:
        raise AssertionError

    async def fail() -> Process:
        raise OSError("no memory")

    children = Children(on_exit)
    starting = asyncio.create_task(children.add("chat-0.1", "worker", fail()))
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="no memory"):
        await starting
    assert children.ids("worker") == ()
    assert not children.kill("chat-0.1")


async def test_signal_that_comes_too_late_reaps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the watcher that asyncio uses by itself from Python 3.12 on."""
    exits: asyncio.Queue[int] = asyncio.Queue()

    async def on_exit(child: Child, exit_code: int) -> None:
        exits.put_nowait(exit_code)

    watcher = asyncio.PidfdChildWatcher()
    watcher.attach_loop(asyncio.get_running_loop())
    monkeypatch.setattr(asyncio.events, "get_child_watcher", lambda: watcher)
    children = Children(on_exit)
    code = "import sys; sys.exit(3)"
    spawning = asyncio.create_subprocess_exec(sys.executable, "-c", code)
    await children.add("chat-0.1", "worker", spawning)
    pid = children.pid("chat-0.1")
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)  # noqa: ASYNC251 - the loop must not notice
    assert children.signal("chat-0.1", signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await exits.get() == 3
