"""Remember which groups are paused, so that workers that start meanwhile are paused, too."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from headrace.coordinator.actions import WorkerMessage
from headrace.coordinator.call_router import CallRouter, own_call_id
from headrace.protocol.calls import Pause, Resume
from headrace.protocol.common.atomic_write import write_atomically
from headrace.protocol.state import WorkerState
from headrace.protocol.to_coordinator import CallResult, PoolCall
from headrace.protocol.to_worker import WorkerCall

log = logging.getLogger("headrace.coordinator")

FILE = "paused.json"  # in the run directory


class PausedGroups:
    """Remembers paused groups, but not single paused workers.

    file: survives the coordinator, which may die together with all workers.
    """

    def __init__(self, groups: Iterable[str], file: Path) -> None:
        self._groups = tuple(groups)
        self._file = file
        self._paused = self._load()
        self._last: tuple[str, tuple[str, ...]] = ("", ())  # the last Pause, and its groups

    def observe(self, router: CallRouter) -> None:
        """Note the calls that pause groups."""
        router.add_observer(Pause, self.on_pause)
        router.add_observer(Resume, self.on_resume)

    def on_pause(self, call: Pause, message: PoolCall) -> None:
        """Note that groups are paused from now on."""
        if not message.target.worker:
            groups = self._targets(message)
            self._paused.update(groups)
            self._last = message.call_id, groups
            self._save()

    def on_resume(self, call: Resume, message: PoolCall) -> None:
        """Note that groups are no longer paused."""
        if not message.target.worker:
            self._paused.difference_update(self._targets(message))
            self._save()

    def _targets(self, message: PoolCall) -> tuple[str, ...]:
        return (message.target.group,) if message.target.group else self._groups

    def on_result(self, result: CallResult) -> None:
        """Note the answer of a worker: if one could not pause, the groups are not paused."""
        call_id, groups = self._last
        if result.error and result.call_id == call_id:
            self._paused.difference_update(groups)
            self._save()

    def on_started(self, worker: WorkerState) -> list[WorkerMessage]:
        """Return the call that pauses a worker which has been loaded, if its group is paused."""
        if worker.group not in self._paused or worker.is_paused:
            return []
        return [(worker.worker_id, WorkerCall(own_call_id(), Pause(mode="keep")))]

    def _load(self) -> set[str]:
        try:
            return set(self._groups).intersection(json.loads(self._file.read_text()))
        except (OSError, ValueError, TypeError):
            return set()

    def _save(self) -> None:
        try:
            write_atomically(self._file, json.dumps(sorted(self._paused)))
        except OSError as error:
            log.warning(
                "a restarted coordinator will not know the paused groups: %s", error.strerror
            )
