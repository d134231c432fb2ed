"""Which groups are to be paused, so that a worker that is started meanwhile is, too."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from headrace.protocol.common.atomic_write import write_atomically
from headrace.protocol.state import WorkerState
from headrace.protocol.to_coordinator import CallResult, PoolCall
from headrace.protocol.to_worker import Call

log = logging.getLogger(__name__)

PAUSE, RESUME = "pause", "resume"
# Nobody waits for the answers to the coordinator's own calls.
_OWN = "coordinator"


class Pausing:
    """Remembers what operators want; of single workers nothing is remembered.

    file: what outlives a coordinator, which may die together with all workers.
    """

    def __init__(self, groups: Iterable[str], file: Path) -> None:
        self._groups = tuple(groups)
        self._file = file
        self._paused = self._load()
        self._last: tuple[str, tuple[str, ...]] = ("", ())  # the last call to pause, and whom

    def on_call(self, call: PoolCall) -> None:
        """An operator has had workers pause or go on."""
        if call.worker or call.method not in (PAUSE, RESUME):
            return
        groups = (call.group,) if call.group else self._groups
        if call.method == PAUSE:
            self._paused.update(groups)
            self._last = call.call_id, groups
        else:
            self._paused.difference_update(groups)
        self._save()

    def on_result(self, result: CallResult) -> None:
        """A worker has answered. One that could not pause goes on."""
        call_id, groups = self._last
        if result.error and result.call_id == call_id:
            self._paused.difference_update(groups)
            self._save()

    def on_started(self, worker: WorkerState) -> list[tuple[str, Call]]:
        """A worker has been loaded: what it is to be told."""
        if worker.group not in self._paused or worker.is_paused:
            return []
        return [(worker.worker_id, Call(_OWN, PAUSE, json.dumps({"mode": "keep"}), False))]

    def _load(self) -> set[str]:
        try:
            return set(self._groups).intersection(json.loads(self._file.read_text()))
        except (OSError, ValueError, TypeError):
            return set()

    def _save(self) -> None:
        try:
            write_atomically(self._file, json.dumps(sorted(self._paused)))
        except OSError as error:
            log.warning("a restarted coordinator will not know who is paused: %s", error.strerror)
