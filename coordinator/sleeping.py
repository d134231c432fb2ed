"""Remember which groups must sleep, and wake up workers when requests arrive."""

from collections.abc import Iterable, Mapping

from headrace.coordinator.actions import WorkerMessage
from headrace.coordinator.call_router import CallRouter, own_call_id
from headrace.coordinator.replica_slots import group_of, slot_of
from headrace.protocol.calls import Sleep, WakeUp
from headrace.protocol.state import ASLEEP, READY, STARTING, WAKING, WorkerState
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_worker import WorkerCall

# How long all awake workers must be busy before another one is woken.
BUSY_S = 1.0


class SleepingGroups:
    """Remembers which workers operators have put to sleep, so that the successor of one that died
    asleep does not come back awake; wakes up more workers when those that are awake are busy.

    busy_from: by group, the number of running requests above which a worker is busy; with waiting
        requests it always is.
    wakes: whether requests wake up workers at all.
    """

    def __init__(self, busy_from: Mapping[str, int], wakes: bool = True) -> None:
        self._busy_from, self._wakes = busy_from, wakes
        self._groups: dict[str, Sleep] = {}  # that must sleep, and how
        self._slots: dict[str, Sleep] = {}  # the same for single replica slots
        self._busy_since: dict[str, float] = {}

    def observe(self, router: CallRouter) -> None:
        """Note the calls that have workers sleep or wake up."""
        router.add_observer(Sleep, self.on_sleep)
        router.add_observer(WakeUp, self.on_wake_up)

    def on_sleep(self, call: Sleep, message: PoolCall) -> None:
        """Note that an operator wants workers to sleep."""
        if message.target.worker:
            self._slots[message.target.worker.partition(".")[0]] = call
            return
        for group in self._targets(message):
            self._groups[group] = call

    def on_wake_up(self, call: WakeUp, message: PoolCall) -> None:
        """Note that an operator wants workers to be awake."""
        if message.target.worker:
            self._slots.pop(message.target.worker.partition(".")[0], None)
            return
        for group in self._targets(message):
            self._groups.pop(group, None)
            for slot in [each for each in self._slots if group_of(each) == group]:
                del self._slots[slot]

    def _targets(self, message: PoolCall) -> list[str]:
        return [message.target.group] if message.target.group else list(self._busy_from)

    def on_started(self, worker: WorkerState) -> list[WorkerMessage]:
        """Return the call that puts a worker which has been loaded to sleep, if it must sleep."""
        call = self._slots.get(slot_of(worker.worker_id)) or self._groups.get(worker.group)
        return [] if call is None else [(worker.worker_id, WorkerCall(own_call_id(), call))]

    def on_wake_request(self, group: str, workers: Iterable[WorkerState]) -> list[WorkerMessage]:
        """Return the call that wakes up a worker of a group for which requests wait; none if one is
        awake or about to be. Called again for as long as they wait."""
        self._groups.pop(group, None)
        members = [each for each in workers if each.group == group]
        # Others are still falling asleep.
        asleep = [each for each in members if each.state == ASLEEP]
        slots = {slot_of(each.worker_id) for each in asleep}
        if any(
            each.state in (READY, WAKING)
            # To wake up is quicker than the start of a sleeping worker's successor.
            or (each.state == STARTING and slot_of(each.worker_id) not in slots)
            for each in members
        ):
            return []
        return self._wake_one(asleep)

    def tick(self, workers: Iterable[WorkerState], now: float) -> list[WorkerMessage]:
        """Return calls that wake up workers because the others are busy.

        Workers that an operator has put to sleep stay asleep.
        """
        messages = []
        all_workers = list(workers)
        for group in self._busy_from:
            members = [each for each in all_workers if each.group == group]
            asleep = [
                each for each in members if each.state == ASLEEP and not self._must_sleep(each)
            ]
            if not (asleep and self._wakes and self._are_all_busy(group, members)):
                self._busy_since.pop(group, None)
            elif now - self._busy_since.setdefault(group, now) >= BUSY_S:
                del self._busy_since[group]
                messages += self._wake_one(asleep)
        return messages

    def wake(self, workers: Iterable[WorkerState], count: int) -> list[WorkerMessage]:
        """Return calls that wake up at most `count` of these workers.

        Workers that an operator has put to sleep stay asleep.
        """
        asleep = [each for each in workers if each.state == ASLEEP and not self._must_sleep(each)]
        chosen = sorted(asleep, key=lambda each: each.worker_id)[:count] if self._wakes else []
        return [call for each in chosen for call in self._wake_one([each])]

    def _are_all_busy(self, group: str, workers: Iterable[WorkerState]) -> bool:
        """Return whether all awake workers are busy, and none is starting or waking up."""
        if any(each.state in (STARTING, WAKING) for each in workers):
            return False
        loads = [each.load for each in workers if each.state == READY]
        most = self._busy_from[group]
        return bool(loads) and all(load.waiting or load.running > most for load in loads)

    def _must_sleep(self, worker: WorkerState) -> bool:
        return worker.group in self._groups or slot_of(worker.worker_id) in self._slots

    def _wake_one(self, asleep: list[WorkerState]) -> list[WorkerMessage]:
        """Wake up one worker, preferably one that no operator has put to sleep."""
        if not asleep:
            return []
        chosen = min(asleep, key=lambda each: (self._must_sleep(each), each.worker_id))
        self._slots.pop(slot_of(chosen.worker_id), None)
        return [(chosen.worker_id, WorkerCall(own_call_id(), WakeUp()))]
