"""Which groups are to sleep, and who wakes when requests come."""

import json
import time
from collections.abc import Iterable

from protocol.state import ASLEEP, READY, STARTING, WAKING, WorkerState
from protocol.to_coordinator import PoolCall
from protocol.to_worker import Call

WAKE, SLEEP = "wake_up", "sleep"
_ALL = ("weights", "kv_cache")
# Of ids of the coordinator's own calls, to whose answers nobody waits.
_OWN = "coordinator"


class Sleeping:
    """Remembers what operators want, so that a worker that is started while its group sleeps, in
    place of one that has died, does not stay awake alone."""

    def __init__(self, groups: Iterable[str]) -> None:
        self._groups = tuple(groups)
        self._sleeping: dict[str, str] = {}  # with what arguments
        self._own = 0

    def on_call(self, call: PoolCall) -> None:
        """An operator has had workers sleep or wake; of single ones nothing is remembered."""
        if call.worker or call.method not in (SLEEP, WAKE):
            return
        for group in (call.group,) if call.group else self._groups:
            if call.method == SLEEP:
                self._sleeping[group] = call.arguments
            else:
                self._sleeping.pop(group, None)

    def on_started(self, worker: WorkerState) -> list[tuple[str, Call]]:
        """A worker has been loaded: what it is to be told."""
        arguments = self._sleeping.get(worker.group)
        if arguments is None:
            return []
        return [(worker.worker_id, self._call(SLEEP, arguments))]

    def on_wanted(self, group: str, workers: Iterable[WorkerState]) -> list[tuple[str, Call]]:
        """Requests wait for a group: whom to wake. Nobody, if one is awake or about to be. It is
        asked again for as long as they wait."""
        self._sleeping.pop(group, None)
        states = {each.worker_id: each.state for each in workers if each.group == group}
        if not {READY, STARTING, WAKING}.isdisjoint(states.values()):
            return []
        asleep = sorted(each for each, state in states.items() if state == ASLEEP)
        if not asleep:  # it falls asleep yet: it is woken when it has
            return []
        return [(asleep[0], self._call(WAKE, json.dumps({"tags": _ALL})))]

    def _call(self, method: str, arguments: str) -> Call:
        self._own += 1
        return Call(f"{_OWN}-{time.time_ns()}-{self._own}", method, arguments, False)
