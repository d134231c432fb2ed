"""Worker templates: processes that have imported what workers need, and fork them.

The other side is workers/fork_server.py.

What libraries read when they are imported (how many threads, how long these spin) is a template's
own, so there is one for each such set. What is read later (which GPU) each worker is told itself.
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
from headrace.protocol.config import PoolConfig
from headrace.protocol.to_fork_server import GO, READY, ForkWorker

log = logging.getLogger("launcher")

FORK_SERVER = "template"
# Read when CUDA is initialised, and the same template serves all GPUs.
READ_LATER = frozenset({"CUDA_VISIBLE_DEVICES"})
# A template that has imported nothing by then, or not forked, hangs.
IMPORT_TIMEOUT_S = 60.0
FORK_TIMEOUT_S = 5.0
# More than a worker's command line can need beyond what both have.
ROOM = " " * 224

Key = tuple[tuple[str, str], ...]


class NoForkServer(Exception):
    """No template can fork this worker: it is to be started cold."""


@dataclass(eq=False)
class _Template:
    """One start of a template. ready: whether it can fork; false: it has ended without."""

    template_id: str
    key: Key
    orders: socket.socket
    ready: asyncio.Future[bool] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class ForkServers:
    """The templates of a pool, each the launcher's child. One that ends is started again, unless it
    could never fork: then its workers are started cold until the next `renew`."""

    def __init__(self, config: PoolConfig, children: Children) -> None:
        self._config, self._children = config, children
        self._current: dict[Key, _Template] = {}
        self._living: dict[str, _Template] = {}
        self._keys: set[Key] = set()
        self._starts = 0
        self._waits: set[asyncio.Task[None]] = set()

    async def keep(self, environment: Mapping[str, str]) -> None:
        """Have a template for workers with this environment, where the system can do it."""
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError as error:  # by which the launcher learns of the end of those it adopts
            log.info("workers are started cold: pidfd_open: %s", error.strerror)
            return
        self._children.adopt_orphans()
        key = _key(environment)
        if key not in self._keys:
            self._keys.add(key)
            await self._begin(key)

    async def renew(self) -> None:
        """Replace all: what they have imported may have changed."""
        old = list(self._living)
        for key in self._keys:
            await self._begin(key)
        for template_id in old:
            self._children.kill(template_id)

    async def ended(self, template_id: str) -> None:
        """A template's process has ended."""
        template = self._living.pop(template_id)
        could_fork = await template.ready  # it ends with its process at the latest
        template.orders.close()
        if self._current.get(template.key) is not template:
            return  # it has been replaced
        del self._current[template.key]
        if could_fork:
            log.error("%s ended; it is started again", template_id)
            await self._begin(template.key)
        else:
            log.error("%s could not be started: workers are started cold", template_id)

    async def fork(self, arguments: list[str], environment: Mapping[str, str]) -> AdoptedProcess:
        """A new worker, from a template as soon as that is ready. NoForkServer if none can be."""
        template = await self._ready_template(_key(environment))
        command_line = [sys.executable, "-P", "-m", "headrace.workers.main", *arguments]
        order = ForkWorker(arguments, command_line, dict(environment))
        try:
            return await self._fork(template, order)
        except OSError as error:  # TimeoutError is one: it may be stopped
            log.error("%s forks no worker: %r", template.template_id, error)
            self._children.kill(template.template_id)
            raise NoForkServer from error

    async def _ready_template(self, key: Key) -> _Template:
        while (template := self._current.get(key)) is not None:
            if await asyncio.shield(template.ready):
                return template
            if self._current.get(key) in (template, None):
                break
        raise NoForkServer

    async def _fork(self, template: _Template, order: ForkWorker) -> AdoptedProcess:
        """OSError if the template does not do it. Should it do so later, or the worker be slow to
        say its pid, that will find the launcher's end of its socket closed, and end."""
        ours, theirs = _socketpair()
        with ours:
            with theirs:
                socket.send_fds(template.orders, [order.encode()], [theirs.fileno()])
            async with asyncio.timeout(FORK_TIMEOUT_S):
                pid = await asyncio.get_running_loop().sock_recv(ours, 64)
            if not pid:
                log.error("%s could not fork, or what it forked died", template.template_id)
                raise NoForkServer
            process = AdoptedProcess(int(pid))
            ours.send(GO)
        return process

    async def _begin(self, key: Key) -> None:
        """Start a template; none is there afterwards if the system will not have it."""
        self._starts += 1
        ours, theirs = _socketpair()
        template = _Template(f"template.{self._starts}", key, ours)
        fd = str(theirs.fileno())
        arguments = ["--run-dir", str(self._config.run_dir), "--orders-fd", fd, "--room", ROOM]
        try:
            with theirs:
                await self._children.start(
                    template.template_id, FORK_SERVER, "headrace.workers.fork_server", arguments,
                    dict(key),
                    (theirs.fileno(),),
                )  # fmt: skip
        except OSError as error:
            log.error("%s cannot be started: %s", template.template_id, error)
            ours.close()
            self._current.pop(key, None)
            return
        self._current[key] = self._living[template.template_id] = template
        task = asyncio.create_task(self._await_ready(template))
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)

    async def _await_ready(self, template: _Template) -> None:
        is_ready = False
        try:
            async with asyncio.timeout(IMPORT_TIMEOUT_S):
                said = await asyncio.get_running_loop().sock_recv(template.orders, len(READY))
                is_ready = said == READY
        except OSError as error:
            log.error("%s does not get ready: %r", template.template_id, error)
            self._children.kill(template.template_id)
        finally:
            template.ready.set_result(is_ready)


def _key(environment: Mapping[str, str]) -> Key:
    return tuple(sorted(item for item in environment.items() if item[0] not in READ_LATER))


def _socketpair() -> tuple[socket.socket, socket.socket]:
    """The launcher's end, which never blocks, and the other."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs
