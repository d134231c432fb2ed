"""Groups that grow and shrink while requests go on: who asked for it, and what came of it.

No sockets and no clock of its own. The registry has workers started and replaced as the number of
places says; here that number is changed, and watched until the pool is as it was asked for.
"""

import itertools
import json
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from headrace.coordinator.replica_slots import Places, place_of
from headrace.protocol import to_launcher
from headrace.protocol.state import DRAINING, SERVING, WorkerState
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import CONFLICT, FAILED, TIMEOUT, PoolResult
from headrace.protocol.to_worker import Leave

log = logging.getLogger(__name__)

SCALE, IS_SCALING = "scale", "is_scaling"
# A worker that is still there so long after its requests have had their time is killed.
LATE_S = 5.0
# What an order gets whose own times are forgotten.
FORGOTTEN_DRAIN_S, START_S = 30.0, 600.0

Message = tuple[str, Leave]
Answer = tuple[str, PoolResult]


@dataclass
class _Resize:
    """before: the size to return to if it fails. callers: who waits for it (frontend, call).
    drain_timeout_s: what requests of workers that go have to end; then they go on elsewhere.
    start_timeout_s: what workers that come have to be ready.
    leaving: who has been told to go, and when.
    error, kind: why it goes back to the size before; "" while it does not.
    is_own: the group's own policy wants it, and may want another size at any time.
    """

    before: int
    wanted: int
    begun_at: float
    drain_timeout_s: float
    start_timeout_s: float
    callers: list[tuple[str, str]] = field(default_factory=list)
    leaving: dict[str, float] = field(default_factory=dict)
    error: str = ""
    kind: str = ""
    is_own: bool = False


class Scaling:
    """starts_workers: whether the coordinator has workers started; else no group can be scaled.
    elastic: groups whose size a policy decides where no operator does."""

    def __init__(self, places: Places, starts_workers: bool, elastic: Collection[str] = ()) -> None:
        self._places, self._starts_workers, self._elastic = places, starts_workers, elastic
        self._resizes: dict[str, _Resize] = {}
        self._failed: dict[str, str] = {}

    @property
    def groups(self) -> frozenset[str]:
        """Those that are not yet as an operator has asked for."""
        return frozenset(group for group, resize in self._resizes.items() if not resize.is_own)

    def is_scaling(self, group: str = "") -> bool:
        """Whether a group, or any, is not yet as an operator has asked for."""
        return group in self.groups if group else bool(self.groups)

    def is_settled(self, group: str) -> bool:
        """Whether a group has all workers that it is to have, and no others."""
        return group not in self._resizes

    def aim(self, group: str, size: int, now: float, times: tuple[float, float]) -> None:
        """A group's policy wants another size: instead of the one that it wanted before, if that is
        not reached yet. Not to be called while an operator's is in hand (see `groups`).

        times: seconds for requests of workers that go, and for workers that come to be ready.
        """
        before = self._places.wanted[group]
        known = self._resizes.get(group)
        if known is None:
            self._resizes[group] = _Resize(before, size, now, *times, is_own=True)
        else:
            known.wanted, known.begun_at, known.error = size, now, ""
            known.before = min(known.before, size)
        self._places.resize(group, size)

    def take_failure(self, group: str) -> str:
        """Why the last size that the policy wanted was not reached; "" if it was, and once it has
        been told."""
        return self._failed.pop(group, "")

    def on_call(self, call: PoolCall, now: float) -> list[Answer]:
        """An operator wants a group to be of another size, or asks whether one becomes so."""
        if call.method == IS_SCALING:
            told = json.dumps(self.is_scaling(call.group))
            return [(call.frontend_id, PoolResult(call.call_id, (), value=told))]
        problem = self._refusal(call)
        if problem is not None:
            return [(call.frontend_id, PoolResult(call.call_id, (), *problem))]
        wanted = json.loads(call.arguments)
        resize = self._resizes.get(call.group)
        if resize is None or resize.is_own:
            before, size = self._places.wanted[call.group], int(wanted["size"])
            before = before if resize is None else min(before, resize.before)
            times = float(wanted["drain_timeout_s"]), float(wanted["start_timeout_s"])
            resize = self._resizes[call.group] = _Resize(before, size, now, *times)
            self._places.resize(call.group, size)
            log.info("group %s: from %d to %d workers", call.group, before, size)
        resize.callers.append((call.frontend_id, call.call_id))
        return []

    def _refusal(self, call: PoolCall) -> tuple[str, str] | None:
        if not self._starts_workers:
            return "workers are started by systemd here, not by this pool", FAILED
        resize = self._resizes.get(call.group)
        if resize is None or resize.is_own:
            return None
        if resize.wanted != json.loads(call.arguments)["size"]:
            return "the group is being scaled already", CONFLICT
        return None

    def tick(
        self, workers: Iterable[WorkerState], now: float
    ) -> tuple[list[Message], list[to_launcher.KillWorker], list[Answer]]:
        """Time has passed: whom to tell to go, whom to kill, and what to answer."""
        messages: list[Message] = []
        kills: list[to_launcher.KillWorker] = []
        answers: list[Answer] = []
        everybody = list(workers)
        self._note_forgotten(everybody, now)
        for group, resize in list(self._resizes.items()):
            mine = [each for each in everybody if each.group == group]
            surplus = [
                each for each in mine if not self._places.is_wanted(place_of(each.worker_id))
            ]
            told, killed = self._send_away(resize, surplus, now)
            messages += told
            kills += killed
            answers += self._judge(group, resize, mine, bool(surplus), now)
        return messages, kills, answers

    def _note_forgotten(self, workers: list[WorkerState], now: float) -> None:
        """A coordinator before this one may have begun to make a group smaller."""
        for worker in workers:
            is_surplus = not self._places.is_wanted(place_of(worker.worker_id))
            if is_surplus and self._starts_workers and worker.group in self._places.wanted:
                size = self._places.wanted[worker.group]
                resize = _Resize(size, size, now, FORGOTTEN_DRAIN_S, START_S)
                resize.is_own = worker.group in self._elastic
                self._resizes.setdefault(worker.group, resize)

    def _send_away(
        self, resize: _Resize, surplus: list[WorkerState], now: float
    ) -> tuple[list[Message], list[to_launcher.KillWorker]]:
        messages: list[Message] = []
        kills: list[to_launcher.KillWorker] = []
        for worker in surplus:
            told_at = resize.leaving.get(worker.worker_id)
            if told_at is None or (worker.state != DRAINING and now - told_at > 1.0):
                resize.leaving[worker.worker_id] = now if told_at is None else told_at
                messages.append((worker.worker_id, Leave(resize.drain_timeout_s)))
            elif now - told_at > resize.drain_timeout_s + LATE_S:
                kills.append(to_launcher.KillWorker(worker.worker_id))
        return messages, kills

    def _judge(
        self, group: str, resize: _Resize, workers: list[WorkerState], has_surplus: bool, now: float
    ) -> list[Answer]:
        """What can be said of a resize now: it is done, it has failed, or nothing yet."""
        there = {place_of(each.worker_id) for each in workers if each.state in SERVING}
        is_whole = there.issuperset(self._places.of_group(group))
        if is_whole and not has_surplus:
            del self._resizes[group]
            log.info("group %s has %d workers", group, self._places.wanted[group])
            return _answers(resize)
        self._give_up_if_failed(group, resize, there, now)
        return []

    def _give_up_if_failed(self, group: str, resize: _Resize, there: set[str], now: float) -> None:
        """Go back to the size that it had, if workers do not come; who waits is told later."""
        new = self._places.of_group(group)[resize.before :]
        problems = [self._places.restarts(place).problem for place in new]
        problem = next(filter(None, problems), "")
        if problem:
            # Reasons may name files of this machine, which are the log's.
            told = "a worker could not be started, as the log says" if "/" in problem else problem
            resize.error, resize.kind = told, FAILED
        elif not there.issuperset(new) and now - resize.begun_at > resize.start_timeout_s:
            resize.error = f"workers were not ready within {resize.start_timeout_s:g} s"
            resize.kind = TIMEOUT
        else:
            return
        kept = resize.before
        if resize.is_own:  # whoever is ready is needed
            kept += len(list(itertools.takewhile(there.__contains__, new)))
            # An empty pool would look as if it were so on purpose.
            kept = max(kept, 1)
            self._failed[group] = resize.error
            resize.before = resize.wanted = kept
        log.error("group %s keeps its %d workers: %s", group, kept, resize.error)
        self._places.resize(group, kept)


def _answers(resize: _Resize) -> list[Answer]:
    return [
        (frontend_id, PoolResult(call_id, (), resize.error, resize.kind))
        for frontend_id, call_id in resize.callers
    ]
