"""What the launcher does with the coordinator's orders."""

import asyncio
from pathlib import Path
from typing import Any

import zmq.asyncio

from headrace.launcher.coordinator_link import CoordinatorLink
from headrace.protocol import sockets, to_launcher
from headrace.protocol.config import GroupConfig, PoolConfig


class StubChildren:
    def __init__(self) -> None:
        self.workers: list[str] = []
        self.killed: asyncio.Queue[str] = asyncio.Queue()

    def ids(self, role: str) -> tuple[str, ...]:
        return tuple(self.workers)

    def kill(self, process_id: str) -> bool:
        self.killed.put_nowait(process_id)
        return True


async def test_a_start_that_takes_long_holds_up_no_other_order(tmp_path: Path) -> None:
    group = GroupConfig(
        name="chat", model="m", model_path=tmp_path, text_path=tmp_path, served_names=("m",)
    )
    config = PoolConfig(run_dir=tmp_path, groups=(group,))
    context = zmq.asyncio.Context()
    coordinator = sockets.router(context, sockets.control_endpoint(tmp_path))
    children: Any = StubChildren()

    async def start(order: to_launcher.StartWorker) -> None:
        children.workers.append(order.worker_id)
        await asyncio.Event().wait()

    link = CoordinatorLink(config, children, start)
    await link.send_hello()
    launcher, _ = await coordinator.recv_multipart()
    obeying = asyncio.create_task(link.execute_orders())
    for order in (
        to_launcher.StartWorker("chat-0.0", "chat", 2),
        to_launcher.StartWorker("chat-0.0", "chat", 2),  # of a new coordinator
        to_launcher.StartWorker("chat-1.0", "chat", 2),
        to_launcher.KillWorker("chat-0.0"),
    ):
        await coordinator.send_multipart([launcher, to_launcher.CONTROL.encode(order)])
    assert await asyncio.wait_for(children.killed.get(), 10) == "chat-0.0"
    assert children.workers == ["chat-0.0", "chat-1.0"]
    obeying.cancel()
    await asyncio.gather(obeying, return_exceptions=True)
    coordinator.close()
    context.destroy(linger=0)
    link.close()
