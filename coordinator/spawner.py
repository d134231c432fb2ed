"""Starts the processes of a pool as the launcher's children, each with what it has to know."""

import logging
import socket

from coordinator.children import Children
from coordinator.hardware import worker_environment
from coordinator.roll import COORDINATOR, FRONTEND, WORKER
from protocol import to_launcher
from protocol.config import PoolConfig

log = logging.getLogger("launcher")


class Spawner:
    """Each method raises OSError if the system will not have the process."""

    def __init__(self, config: PoolConfig, children: Children, listener: socket.socket) -> None:
        self._config, self._children, self._listener = config, children, listener
        self._numbers: dict[str, int] = {}  # by place

    async def coordinator(self) -> None:
        await self._start(COORDINATOR, COORDINATOR, "coordinator.main", [], {})

    async def frontend(self, frontend_id: str) -> None:
        http_fd = self._listener.fileno()
        arguments = ["--frontend-id", frontend_id, "--http-fd", str(http_fd)]
        environment = {"TOKENIZERS_PARALLELISM": "false"}
        await self._start(
            frontend_id, FRONTEND, "frontend.main", arguments, environment, (http_fd,)
        )

    async def worker(self, order: to_launcher.StartWorker) -> None:
        arguments = ["--worker-id", order.worker_id, "--group", order.group]
        arguments += ["--workers-on-host", str(order.workers_on_host)]
        environment = worker_environment(
            self._place_on_host(order.worker_id),
            workers=order.workers_on_host,
            threads=self._config.group(order.group).engine.threads,
        )
        await self._start(order.worker_id, WORKER, "workers.main", arguments, environment)

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
        shared = {"PROMETHEUS_MULTIPROC_DIR": str(self._config.metrics_dir)}
        flags = ["--run-dir", str(self._config.run_dir), *arguments]
        await self._children.start(process_id, role, module, flags, shared | environment, fds)
        log.debug("started %s", process_id)
