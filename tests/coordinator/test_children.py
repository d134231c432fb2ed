"""The launcher's children, real processes."""

import asyncio

from coordinator.children import Child, Children


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
