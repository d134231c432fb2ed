"""Starts the processes of a pool as the launcher's children, with their arguments."""

import logging
import os
import socket
from asyncio.subprocess import Process

from headrace.launcher.adopted import AdoptedProcess
from headrace.launcher.children import Children, slot_of
from headrace.launcher.fork_servers import ForkServers, NoForkServer
from headrace.launcher.hardware import worker_environment
from headrace.launcher.reload_memory import own_bytes
from headrace.launcher.shared_weights import SharedWeightFiles
from headrace.protocol import to_launcher
from headrace.protocol.common.process_registry import COORDINATOR, FRONTEND, WORKER, Role
from headrace.protocol.config import GroupConfig, PoolConfig

log = logging.getLogger("headrace.launcher")


class Spawner:
    """The starts of all processes but the launcher.

    Each method that starts a process raises OSError if the system refuses it.
    """

    def __init__(self, config: PoolConfig, children: Children, listener: socket.socket) -> None:
        self._config, self._children, self._listener = config, children, listener
        self._indices: dict[str, int] = {}  # by slot
        self.fork_servers = ForkServers(config, children)
        self.shared_weights = SharedWeightFiles()

    async def start_fork_servers(self) -> None:
        """Start the processes from which workers are forked.

        The fake engine needs none: its imports are quick.
        """
        for group in self._config.groups:
            if self._config.warm_starts and group.engine.runs_model:
                await self.fork_servers.ensure(self._worker_environment(group, index=0))

    async def renew(self) -> None:
        """Let workers that start from now on share nothing with those before."""
        self.shared_weights.renew()
        await self.fork_servers.renew()

    async def start_coordinator(self) -> None:
        """Start the coordinator."""
        await self._start(COORDINATOR, COORDINATOR, "headrace.coordinator.main", [], {})

    async def start_frontend(self, frontend_id: str) -> None:
        """Start a frontend, which inherits the HTTP socket."""
        http_fd = self._listener.fileno()
        arguments = ["--frontend-id", frontend_id, "--http-fd", str(http_fd)]
        environment = {"TOKENIZERS_PARALLELISM": "false"}
        await self._start(
            frontend_id, FRONTEND, "headrace.frontend.main", arguments, environment, (http_fd,)
        )

    async def start_worker(self, order: to_launcher.StartWorker) -> None:
        """Start a worker: forked by a fork server if one can."""
        group, index = self._config.group(order.group), self.index_on_host(order.worker_id)
        run_dir = str(self._config.run_dir)
        flags = ["--run-dir", run_dir, "--worker-id", order.worker_id, "--group", group.name]
        flags += ["--workers-on-host", str(order.workers_on_host)]
        shared_weights = self.shared_weights.path(group)
        if shared_weights is not None:
            flags += ["--shared-weights", str(shared_weights)]
        flags += self._freed_by_old(order.worker_id)
        starting = self._fork_or_spawn(flags, self._worker_environment(group, index))
        await self._children.add(order.worker_id, WORKER, starting)
        log.debug("started %s", order.worker_id)

    def _freed_by_old(self, worker_id: str) -> list[str]:
        """Return the flag that says how much memory the worker in the same slot will give back."""
        slot, running = slot_of(worker_id), self._children.ids(WORKER)
        pids = [self._children.pid(each) for each in running if slot_of(each) == slot]
        freed = sum(own_bytes(pid) for pid in pids if pid is not None)
        return ["--freed-bytes", str(freed)] if freed else []

    async def _fork_or_spawn(
        self, flags: list[str], environment: dict[str, str]
    ) -> Process | AdoptedProcess:
        try:
            return await self.fork_servers.fork(
                [*flags, "--parent-pid", str(os.getpid())], environment
            )
        except NoForkServer:
            return await self._children.spawn("headrace.workers.main", flags, environment, ())

    def _worker_environment(self, group: GroupConfig, index: int) -> dict[str, str]:
        workers = max(1, sum(each.workers for each in self._config.groups))
        return self._common_environment | worker_environment(index, workers, group.engine.threads)

    @property
    def _common_environment(self) -> dict[str, str]:
        return {"PROMETHEUS_MULTIPROC_DIR": str(self._config.metrics_dir)}

    def index_on_host(self, worker_id: str) -> int:
        """Return the index of a worker's slot among those of all groups, in order of first starts.

        Groups may grow later. A slot keeps its index, and so its GPU.
        """
        return self._indices.setdefault(slot_of(worker_id), len(self._indices))

    async def _start(
        self,
        process_id: str,
        role: Role,
        module: str,
        arguments: list[str],
        environment: dict[str, str],
        fds: tuple[int, ...] = (),
    ) -> None:
        flags = ["--run-dir", str(self._config.run_dir), *arguments]
        environment = self._common_environment | environment
        await self._children.start(process_id, role, module, flags, environment, fds)
        log.debug("started %s", process_id)
