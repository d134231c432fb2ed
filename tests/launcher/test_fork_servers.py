"""The launcher's side of fork servers, with children that only seem to be there. What real ones
do is in tests/end_to_end/lifecycle/test_warm_starts.py."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.launcher import fork_servers
from headrace.launcher.fork_servers import ForkServers, NoForkServer
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.to_fork_server import READY, ForkWorker

ENVIRONMENT = {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0"}


class StubChildren:
    """Keeps the fork servers' ends of their sockets."""

    def __init__(self) -> None:
        self.ends: dict[str, socket.socket] = {}
        self.environments: list[dict[str, str]] = []
        self.killed: list[str] = []

    def adopt_orphans(self) -> None: ...

    async def start(
        self,
        process_id: str,
        role: str,
        module: str,
        arguments: list[str],
        environment: dict[str, str],
        fds: tuple[int, ...],
    ) -> None:
        self.ends[process_id] = socket.socket(fileno=os.dup(fds[0]))
        self.environments.append(environment)

    def kill(self, process_id: str) -> None:
        self.killed.append(process_id)
        self.ends[process_id].close()


@pytest.fixture
def children() -> Iterator[StubChildren]:
    stub = StubChildren()
    yield stub
    for end in stub.ends.values():
        end.close()


@pytest.fixture
def servers(children: StubChildren, tmp_path: Path) -> ForkServers:
    group = GroupConfig(
        name="chat", model="m", model_path=tmp_path, text_path=tmp_path, served_names=("m",)
    )
    config = PoolConfig(run_dir=tmp_path, groups=(group,))
    untyped: Any = children
    return ForkServers(config, untyped)


async def test_workers_that_differ_in_their_gpu_share_a_fork_server(
    servers: ForkServers, children: StubChildren
) -> None:
    for gpu in "01":
        await servers.ensure(ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": gpu})
    await servers.ensure(ENVIRONMENT | {"OMP_NUM_THREADS": "1"})
    assert children.environments == [{"OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "1"}]
    for process_id in list(children.ends):
        children.kill(process_id)
        await servers.on_exit(process_id)


async def test_without_a_fork_server_nothing_is_forked(servers: ForkServers) -> None:
    with pytest.raises(NoForkServer):
        await servers.fork([], ENVIRONMENT)


async def test_a_system_without_pidfds_has_none(
    servers: ForkServers, children: StubChildren, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    await servers.ensure(ENVIRONMENT)
    assert not children.ends


async def test_orders_wait_for_a_fork_server_and_not_for_one_that_ends(
    servers: ForkServers, children: StubChildren
) -> None:
    await servers.ensure(ENVIRONMENT)
    forking = asyncio.create_task(servers.fork([], ENVIRONMENT))
    await asyncio.sleep(0.05)
    assert not forking.done()
    children.kill("fork-server.1")
    with pytest.raises(NoForkServer):
        await asyncio.wait_for(forking, 10)
    await servers.on_exit("fork-server.1")
    assert list(children.ends) == ["fork-server.1"], "it could never fork: it is not tried again"


async def test_orders_go_to_the_fork_server_that_replaces_another(
    servers: ForkServers, children: StubChildren
) -> None:
    await servers.ensure(ENVIRONMENT)
    forking = asyncio.create_task(servers.fork(["--worker-id", "chat-0.1"], ENVIRONMENT))
    await asyncio.sleep(0.05)
    await servers.renew()
    assert children.killed == ["fork-server.1"]
    await servers.on_exit("fork-server.1")
    end = children.ends["fork-server.2"]
    end.send(READY)
    end.setblocking(False)
    data, fds = await _next_order(end)
    assert ForkWorker.decode(data).arguments == ["--worker-id", "chat-0.1"]
    assert ForkWorker.decode(data).environment == ENVIRONMENT
    os.close(fds[0])  # as if the fork had failed
    with pytest.raises(NoForkServer):
        await asyncio.wait_for(forking, 10)
    assert children.killed == ["fork-server.1"], "it may work the next time"
    children.kill("fork-server.2")
    await servers.on_exit("fork-server.2")
    assert "fork-server.3" in children.ends, "it could fork: it is started again"
    children.kill("fork-server.3")
    await servers.on_exit("fork-server.3")


async def test_a_fork_server_that_does_not_fork_in_time_is_killed(
    servers: ForkServers, children: StubChildren, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_servers, "FORK_TIMEOUT_S", 0.05)
    await servers.ensure(ENVIRONMENT)
    children.ends["fork-server.1"].send(READY)
    with pytest.raises(NoForkServer):
        await asyncio.wait_for(servers.fork([], ENVIRONMENT), 10)
    assert children.killed == ["fork-server.1"]
    await servers.on_exit("fork-server.1")
    children.kill("fork-server.2")
    await servers.on_exit("fork-server.2")


async def _next_order(end: socket.socket) -> tuple[bytes, list[int]]:
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(end, 65536, 1)
        except BlockingIOError:
            await asyncio.sleep(0.01)
        else:
            return data, fds
