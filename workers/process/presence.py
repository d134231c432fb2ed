"""Show the coordinator a worker and its state."""

import logging
import os
from collections.abc import Callable

from headrace.protocol import PROTOCOL_VERSION
from headrace.protocol.pooling import Task
from headrace.protocol.state import STARTING, WorkerStatus
from headrace.protocol.to_coordinator import WorkerDraining, WorkerHello

log = logging.getLogger("headrace.worker")


class Presence:
    """Greets the coordinator, again with each change. send: sends a message there."""

    def __init__(
        self,
        worker_id: str,
        group: str,
        endpoint: str,
        send: Callable[[WorkerHello | WorkerDraining], None],
    ) -> None:
        self._worker_id, self._group, self._endpoint = worker_id, group, endpoint
        self._send = send
        self._state: WorkerStatus = STARTING
        self._is_paused = self._is_draining = False
        self._adapter_ids: tuple[str, ...] = ()
        self._tasks: tuple[Task, ...] = ()

    @property
    def state(self) -> WorkerStatus:
        return self._state

    def greet(self) -> None:
        """Introduce the worker as it is now."""
        self._send(
            WorkerHello(
                PROTOCOL_VERSION,
                self._worker_id,
                self._group,
                os.getpid(),
                self._endpoint,
                self._state,
                self._is_paused,
                self._adapter_ids,
                self._tasks,
            )
        )

    def on_loaded(self, adapter_ids: tuple[str, ...], tasks: tuple[Task, ...]) -> None:
        """Note the adapters that the engine starts with, and what its model does; the next greeting
        shows them."""
        self._adapter_ids, self._tasks = adapter_ids, tasks

    def on_adapters(self, adapter_ids: tuple[str, ...]) -> None:
        """Show the adapters that the engine has now."""
        self._adapter_ids = adapter_ids
        self.greet()

    def on_state(self, state: WorkerStatus) -> None:
        """Show a new state."""
        self._state = state
        self._on_change(state)

    def on_paused(self, is_paused: bool) -> None:
        """Show that the worker has been paused or resumed."""
        self._is_paused = is_paused
        self._on_change("paused" if is_paused else "resumed")

    def drain(self) -> None:
        """Announce that the worker takes no more requests; later states do not matter."""
        self._is_draining = True
        self._send(WorkerDraining(self._worker_id))

    def _on_change(self, change: str) -> None:
        log.info("%s", change.replace("_", " "))
        if not self._is_draining:
            self.greet()
