"""Fork servers: processes that have imported what workers need, and fork them.

The other side is workers/fork_server.py.

Libraries read some settings when they are imported (how many threads, how long these spin), so
workers that differ in those need fork servers of their own. Settings that are read later (which
GPU) are sent with each order.
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.launcher.adopted import AdoptedProcess
from headrace.launcher.children import Children
from headrace.protocol.common.process_registry import FORK_SERVER
from headrace.protocol.config import PoolConfig
from headrace.protocol.to_fork_server import GO, READY, ForkWorker

log = logging.getLogger("headrace.launcher")

# Read when CUDA is initialised: the same fork server serves all GPUs.
READ_LATER = frozenset({"CUDA_VISIBLE_DEVICES"})
# A fork server that has not imported its modules, or not forked, by then hangs.
IMPORT_TIMEOUT_S = 60.0
FORK_TIMEOUT_S = 5.0
# Longer than what a worker's command line can need beyond what both have.
ROOM = " " * 256

# The settings that are read at import, by which fork servers differ.
ImportSettings = tuple[tuple[str, str], ...]


class NoForkServer(Exception):
    """No fork server can fork this worker: it must be started cold."""


@dataclass(eq=False)
class _ForkServer:
    """One start of a fork server. ready: whether it can fork; false: it ended before it could."""

    process_id: str
    settings: ImportSettings
    orders: socket.socket
    ready: asyncio.Future[bool] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class ForkServers:
    """The fork servers of a pool, each a child of the launcher.

    One that ends is restarted, unless it could never fork: then its workers are started cold until
    the next `renew`.
    """

    def __init__(self, config: PoolConfig, children: Children) -> None:
        self._config, self._children = config, children
        self._current: dict[ImportSettings, _ForkServer] = {}
        self._running: dict[str, _ForkServer] = {}
        self._settings: set[ImportSettings] = set()
        self._starts = 0
        self._waits: set[asyncio.Task[None]] = set()

    async def ensure(self, environment: Mapping[str, str]) -> None:
        """Start a fork server for workers with this environment, unless one runs already."""
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError as error:  # without pidfds the launcher cannot watch adopted processes
            log.info("workers are started cold: pidfd_open: %s", error.strerror)
            return
        self._children.adopt_orphans()
        settings = _import_settings(environment)
        if settings not in self._settings:
            self._settings.add(settings)
            await self._start(settings)

    async def renew(self) -> None:
        """Replace all fork servers: the modules that they have imported may have changed."""
        old = list(self._running)
        for settings in self._settings:
            await self._start(settings)
        for process_id in old:
            self._children.kill(process_id)

    async def on_exit(self, process_id: str) -> None:
        """Restart a fork server that has ended, if it could fork and has not been replaced."""
        ended = self._running.pop(process_id)
        could_fork = await ended.ready  # it is set at the latest when the process ends
        ended.orders.close()
        if self._current.get(ended.settings) is not ended:
            return
        del self._current[ended.settings]
        if could_fork:
            log.error("%s exited; restarting it", process_id)
            await self._start(ended.settings)
        else:
            log.error("%s could not be started: workers are started cold", process_id)

    async def fork(self, arguments: list[str], environment: Mapping[str, str]) -> AdoptedProcess:
        """Fork a worker, as soon as its fork server is ready. Raises NoForkServer if none can."""
        server = await self._wait_until_ready(_import_settings(environment))
        command_line = [sys.executable, "-P", "-m", "headrace.workers.main", *arguments]
        order = ForkWorker(arguments, command_line, dict(environment))
        try:
            return await self._fork(server, order)
        except OSError as error:  # TimeoutError is one: the process may be stopped
            log.error("%s forks no worker: %r", server.process_id, error)
            self._children.kill(server.process_id)
            raise NoForkServer from error

    async def _wait_until_ready(self, settings: ImportSettings) -> _ForkServer:
        while (server := self._current.get(settings)) is not None:
            if await asyncio.shield(server.ready):
                return server
            if self._current.get(settings) in (server, None):
                break
        raise NoForkServer

    async def _fork(self, server: _ForkServer, order: ForkWorker) -> AdoptedProcess:
        """Have a worker forked. Raises OSError if that fails.

        A fork server that executes the order too late, and a worker that reports its pid too late,
        find the launcher's end of the worker's socket closed, and end.
        """
        ours, theirs = _socketpair()
        with ours:
            with theirs:
                socket.send_fds(server.orders, [order.encode()], [theirs.fileno()])
            async with asyncio.timeout(FORK_TIMEOUT_S):
                pid = await asyncio.get_running_loop().sock_recv(ours, 64)
            if not pid:
                log.error("%s could not fork, or what it forked died", server.process_id)
                raise NoForkServer
            process = AdoptedProcess(int(pid))
            ours.send(GO)
        return process

    async def _start(self, settings: ImportSettings) -> None:
        """Start a fork server; if the system refuses the process, these settings have none."""
        self._starts += 1
        try:
            ours, theirs = _socketpair()
        except OSError as error:  # no descriptors left
            log.error("no fork server can be started: %s", error)
            self._current.pop(settings, None)
            return
        server = _ForkServer(f"{FORK_SERVER}.{self._starts}", settings, ours)
        fd = str(theirs.fileno())
        arguments = ["--run-dir", str(self._config.run_dir), "--orders-fd", fd, "--room", ROOM]
        try:
            with theirs:
                await self._children.start(
                    server.process_id, FORK_SERVER, "headrace.workers.fork_server", arguments,
                    dict(settings),
                    (theirs.fileno(),),
                )  # fmt: skip
        except OSError as error:
            log.error("%s cannot be started: %s", server.process_id, error)
            ours.close()
            self._current.pop(settings, None)
            return
        self._current[settings] = self._running[server.process_id] = server
        task = asyncio.create_task(self._await_ready(server))
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)

    async def _await_ready(self, server: _ForkServer) -> None:
        is_ready = False
        try:
            async with asyncio.timeout(IMPORT_TIMEOUT_S):
                data = await asyncio.get_running_loop().sock_recv(server.orders, len(READY))
                is_ready = data == READY
        except OSError as error:
            log.error("%s does not become ready: %r", server.process_id, error)
            self._children.kill(server.process_id)
        finally:
            server.ready.set_result(is_ready)


def _import_settings(environment: Mapping[str, str]) -> ImportSettings:
    return tuple(sorted(item for item in environment.items() if item[0] not in READ_LATER))


def _socketpair() -> tuple[socket.socket, socket.socket]:
    """Return the launcher's end, which never blocks, and the other."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs
