"""Which groups are to sleep, and who wakes when requests come."""

import json
import time
from collections.abc import Iterable, Mapping

from headrace.coordinator.replica_slots import group_of, place_of
from headrace.protocol.state import ASLEEP, READY, STARTING, WAKING, WorkerState
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_worker import Call

WAKE, SLEEP = "wake_up", "sleep"
# For how long the workers that are awake have to be busy before another is woken.
BUSY_S = 1.0
_ALL = ("weights", "kv_cache")
# Of ids of the coordinator's own calls, to whose answers nobody waits.
_OWN = "coordinator"


class Sleeping:
    """Remembers what operators want, so that a worker that is started in place of one that has died
    asleep does not come back awake; and has more workers woken when those that are awake have much
    to do.

    busy_from: by group, with how many running requests a worker is busy; with waiting ones it
    always is. wakes: whether requests wake anybody at all.
    """

    def __init__(self, busy_from: Mapping[str, int], wakes: bool = True) -> None:
        self._busy_from, self._wakes = busy_from, wakes
        self._groups: dict[str, str] = {}  # that are to sleep, and with what arguments
        self._places: dict[str, str] = {}  # the same of single ones
        self._busy_since: dict[str, float] = {}
        self._own = 0

    def on_call(self, call: PoolCall) -> None:
        """An operator has had workers sleep or wake."""
        if call.method == SLEEP and call.worker:
            self._places[call.worker.partition(".")[0]] = call.arguments
        elif call.method == SLEEP:
            for group in [call.group] if call.group else self._busy_from:
                self._groups[group] = call.arguments
        elif call.method == WAKE and call.worker:
            self._places.pop(call.worker.partition(".")[0], None)
        elif call.method == WAKE:
            for group in [call.group] if call.group else self._busy_from:
                self._groups.pop(group, None)
                for place in [each for each in self._places if group_of(each) == group]:
                    del self._places[place]

    def on_started(self, worker: WorkerState) -> list[tuple[str, Call]]:
        """A worker has been loaded: what it is to be told."""
        of_place = self._places.get(place_of(worker.worker_id))
        arguments = of_place or self._groups.get(worker.group)
        return [] if arguments is None else [(worker.worker_id, self._call(SLEEP, arguments))]

    def on_wanted(self, group: str, workers: Iterable[WorkerState]) -> list[tuple[str, Call]]:
        """Requests wait for a group: whom to wake. Nobody, if one is awake or about to be. It is
        asked again for as long as they wait."""
        self._groups.pop(group, None)
        mine = [each for each in workers if each.group == group]
        if any(each.state in (READY, STARTING, WAKING) for each in mine):
            return []
        asleep = [each for each in mine if each.state == ASLEEP]  # the others fall asleep yet
        return self._wake_one(asleep)

    def tick(self, workers: Iterable[WorkerState], now: float) -> list[tuple[str, Call]]:
        """Time has passed: whom to wake because there is much to do. Nobody that an operator wants
        to sleep."""
        messages = []
        everybody = list(workers)
        for group in self._busy_from:
            mine = [each for each in everybody if each.group == group]
            asleep = [each for each in mine if each.state == ASLEEP and not self._is_kept(each)]
            if not (asleep and self._wakes and self._are_all_busy(group, mine)):
                self._busy_since.pop(group, None)
            elif now - self._busy_since.setdefault(group, now) >= BUSY_S:
                del self._busy_since[group]
                messages += self._wake_one(asleep)
        return messages

    def wake(self, workers: Iterable[WorkerState], count: int) -> list[tuple[str, Call]]:
        """So many of these, at most, are needed. Nobody that an operator wants to sleep."""
        asleep = [each for each in workers if each.state == ASLEEP and not self._is_kept(each)]
        chosen = sorted(asleep, key=lambda each: each.worker_id)[:count] if self._wakes else []
        return [call for each in chosen for call in self._wake_one([each])]

    def _are_all_busy(self, group: str, workers: Iterable[WorkerState]) -> bool:
        """Whether those that are awake have much to do, and nobody is about to help them."""
        if any(each.state in (STARTING, WAKING) for each in workers):
            return False
        loads = [each.load for each in workers if each.state == READY]
        most = self._busy_from[group]
        return bool(loads) and all(load.waiting or load.running > most for load in loads)

    def _is_kept(self, worker: WorkerState) -> bool:
        return worker.group in self._groups or place_of(worker.worker_id) in self._places

    def _wake_one(self, asleep: list[WorkerState]) -> list[tuple[str, Call]]:
        """Rather one of which no operator has said that it is to sleep."""
        if not asleep:
            return []
        chosen = min(asleep, key=lambda each: (self._is_kept(each), each.worker_id))
        self._places.pop(place_of(chosen.worker_id), None)
        return [(chosen.worker_id, self._call(WAKE, json.dumps({"tags": _ALL})))]

    def _call(self, method: str, arguments: str) -> Call:
        self._own += 1
        return Call(f"{_OWN}-{time.time_ns()}-{self._own}", method, arguments, False)
