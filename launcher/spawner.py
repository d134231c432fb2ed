"""Starts the processes of a pool as the launcher's children, each with what it has to know."""

import logging
import os
import socket
from asyncio.subprocess import Process

from headrace.launcher.adopted import AdoptedProcess
from headrace.launcher.children import Children
from headrace.launcher.fork_servers import ForkServers, NoForkServer
from headrace.launcher.hardware import worker_environment
from headrace.launcher.shared_weights import SharedWeightFiles
from headrace.protocol import to_launcher
from headrace.protocol.common.process_registry import COORDINATOR, FRONTEND, WORKER
from headrace.protocol.config import GroupConfig, PoolConfig

log = logging.getLogger("launcher")


class Spawner:
    """Each method raises OSError if the system will not have the process."""

    def __init__(self, config: PoolConfig, children: Children, listener: socket.socket) -> None:
        self._config, self._children, self._listener = config, children, listener
        self._numbers: dict[str, int] = {}  # by place
        self.templates = ForkServers(config, children)
        self.shared_weights = SharedWeightFiles()

    async def keep_templates(self) -> None:
        """From now on have processes that workers can be forked from. The fake engine has nothing
        to import that would take long."""
        for group in self._config.groups:
            if self._config.warm_starts and group.engine.engine != "fake":
                await self.templates.keep(self._worker_environment(group, place=0))

    async def renew(self) -> None:
        """Let workers that start from now on share nothing with those before."""
        self.shared_weights.renew()
        await self.templates.renew()

    async def coordinator(self) -> None:
        await self._start(COORDINATOR, COORDINATOR, "headrace.coordinator.main", [], {})

    async def frontend(self, frontend_id: str) -> None:
        http_fd = self._listener.fileno()
        arguments = ["--frontend-id", frontend_id, "--http-fd", str(http_fd)]
        environment = {"TOKENIZERS_PARALLELISM": "false"}
        await self._start(
            frontend_id, FRONTEND, "headrace.frontend.main", arguments, environment, (http_fd,)
        )

    async def worker(self, order: to_launcher.StartWorker) -> None:
        """Forked by a template if there is one that can."""
        group, place = self._config.group(order.group), self._place_on_host(order.worker_id)
        run_dir = str(self._config.run_dir)
        flags = ["--run-dir", run_dir, "--worker-id", order.worker_id, "--group", group.name]
        flags += ["--workers-on-host", str(order.workers_on_host)]
        shared_weights = self.shared_weights.path(group)
        if shared_weights is not None:
            flags += ["--shared-weights", str(shared_weights)]
        starting = self._fork_or_spawn(flags, self._worker_environment(group, place))
        await self._children.add(order.worker_id, WORKER, starting)
        log.debug("started %s", order.worker_id)

    async def _fork_or_spawn(
        self, flags: list[str], environment: dict[str, str]
    ) -> Process | AdoptedProcess:
        try:
            return await self.templates.fork(
                [*flags, "--parent-pid", str(os.getpid())], environment
            )
        except NoForkServer:
            return await self._children.spawn("headrace.workers.main", flags, environment, ())

    def _worker_environment(self, group: GroupConfig, place: int) -> dict[str, str]:
        workers = max(1, sum(each.workers for each in self._config.groups))
        return self._shared | worker_environment(place, workers, group.engine.threads)

    @property
    def _shared(self) -> dict[str, str]:
        return {"PROMETHEUS_MULTIPROC_DIR": str(self._config.metrics_dir)}

    def _place_on_host(self, worker_id: str) -> int:
        """The worker's number among the workers of all groups, in the order of their first starts:
        groups may grow later. A place keeps its number, and so its GPU."""
        return self._numbers.setdefault(worker_id.rpartition(".")[0], len(self._numbers))

    async def _start(
        self,
        process_id: str,
        role: str,
        module: str,
        arguments: list[str],
        environment: dict[str, str],
        fds: tuple[int, ...] = (),
    ) -> None:
        flags = ["--run-dir", str(self._config.run_dir), *arguments]
        await self._children.start(process_id, role, module, flags, self._shared | environment, fds)
        log.debug("started %s", process_id)
