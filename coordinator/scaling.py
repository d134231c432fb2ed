"""Scales groups while requests run, and answers the calls that asked for it.

No sockets and no clock of its own. The registry starts and replaces workers by the number of
replica slots; this module changes that number, and watches until the pool has the target size.
"""

import itertools
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from headrace.coordinator.actions import Actions, Answer
from headrace.coordinator.call_router import CallRouter
from headrace.coordinator.replica_slots import ReplicaSlots, slot_of
from headrace.protocol import to_launcher
from headrace.protocol.call_results import ScalingState
from headrace.protocol.calls import (
    ABSENT,
    CONFLICT,
    FAILED,
    TIMEOUT,
    ErrorKind,
    GetScaling,
    Scale,
)
from headrace.protocol.state import DRAINING, SERVING, WorkerState
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import PoolResult
from headrace.protocol.to_worker import DrainWorker

log = logging.getLogger("headrace.coordinator")

# A worker that still runs so long after its drain timeout is killed.
LATE_S = 5.0
# Timeouts of a resize that a previous coordinator has begun.
FORGOTTEN_DRAIN_S, START_S = 30.0, 600.0

Message = tuple[str, DrainWorker]


@dataclass
class _Resize:
    """A change of a group's size.

    before: the size to return to if it fails. callers: calls that wait for it (frontend, call id).
    drain_timeout_s: for requests of drained workers; then they fail over to other workers.
    start_timeout_s: for new workers to be ready.
    draining: workers that were ordered to drain, and when.
    error, kind: why it returns to the size before; "" while it does not.
    is_automatic: the group's autoscaling policy decided it, and may change it at any time.
    """

    before: int
    target: int
    begun_at: float
    drain_timeout_s: float
    start_timeout_s: float
    callers: list[tuple[str, str]] = field(default_factory=list)
    draining: dict[str, float] = field(default_factory=dict)
    error: str = ""
    kind: ErrorKind = ABSENT
    is_automatic: bool = False


class Scaling:
    """Changes the sizes of groups.

    starts_workers: whether the coordinator starts workers; if not, no group can be scaled.
    elastic: groups whose size a policy decides unless an operator does.
    """

    def __init__(
        self, slots: ReplicaSlots, starts_workers: bool, elastic: Collection[str] = ()
    ) -> None:
        self._slots, self._starts_workers, self._elastic = slots, starts_workers, elastic
        self._resizes: dict[str, _Resize] = {}
        self._failed: dict[str, str] = {}

    @property
    def groups(self) -> frozenset[str]:
        """The groups that have not reached the size that an operator has set."""
        return frozenset(
            group for group, resize in self._resizes.items() if not resize.is_automatic
        )

    def is_scaling(self, group: str = "") -> bool:
        """Return whether a group, or any, has not reached the size that an operator has set."""
        return group in self.groups if group else bool(self.groups)

    def is_settled(self, group: str) -> bool:
        """Return whether a group has exactly the workers that it should have."""
        return group not in self._resizes

    def resize_automatically(
        self, group: str, size: int, now: float, timeouts: tuple[float, float]
    ) -> None:
        """Set the size that a group's policy has decided, replacing an earlier decision of it. Must
        not be called while an operator's resize is in progress (see `groups`).

        timeouts: seconds to drain workers, and for new workers to be ready.
        """
        before = self._slots.target_sizes[group]
        known = self._resizes.get(group)
        if known is None:
            self._resizes[group] = _Resize(before, size, now, *timeouts, is_automatic=True)
        else:
            known.target, known.begun_at, known.error = size, now, ""
            known.before = min(known.before, size)
        self._slots.resize(group, size)

    def pop_failure(self, group: str) -> str:
        """Return why the last size that the policy decided was not reached, once; "" if it was."""
        return self._failed.pop(group, "")

    def add_handlers(self, router: CallRouter) -> None:
        """Answer the calls that scale groups."""
        router.add_handler(Scale, self.on_scale)
        router.add_handler(GetScaling, self.on_get_scaling)

    def on_get_scaling(self, call: GetScaling, message: PoolCall, now: float) -> Actions:
        """Answer whether a group, or any, is being scaled."""
        value = ScalingState(self.is_scaling(message.target.group))
        result = PoolResult(message.call_id, (), value=value)
        return Actions(answers=((message.frontend_id, result),))

    def on_scale(self, call: Scale, message: PoolCall, now: float) -> Actions:
        """Begin to scale a group. The caller is answered when it has the new size."""
        group = message.target.group
        resize = self._resizes.get(group)
        problem = self._why_not_scale(call, resize)
        if problem is not None:
            result = PoolResult(message.call_id, (), *problem)
            return Actions(answers=((message.frontend_id, result),))
        if resize is None or resize.is_automatic:
            before = self._slots.target_sizes[group]
            before = before if resize is None else min(before, resize.before)
            times = call.drain_timeout_s, call.start_timeout_s
            resize = self._resizes[group] = _Resize(before, call.size, now, *times)
            self._slots.resize(group, call.size)
            log.info("scaling group %s from %d to %d workers", group, before, call.size)
        resize.callers.append((message.frontend_id, message.call_id))
        return Actions()

    def _why_not_scale(self, call: Scale, resize: _Resize | None) -> tuple[str, ErrorKind] | None:
        if not self._starts_workers:
            return "workers are started by systemd here, not by this pool", FAILED
        if resize is None or resize.is_automatic:
            return None
        if resize.target != call.size:
            return "the group is being scaled already", CONFLICT
        return None

    def tick(
        self, workers: Iterable[WorkerState], now: float
    ) -> tuple[list[Message], list[to_launcher.KillWorker], list[Answer]]:
        """Return messages that drain workers, workers to kill, and answers."""
        messages: list[Message] = []
        kills: list[to_launcher.KillWorker] = []
        answers: list[Answer] = []
        all_workers = list(workers)
        self._adopt_forgotten(all_workers, now)
        for group, resize in list(self._resizes.items()):
            members = [each for each in all_workers if each.group == group]
            surplus = [
                each for each in members if not self._slots.is_current(slot_of(each.worker_id))
            ]
            drains, late = self._drain_surplus(resize, surplus, now)
            messages += drains
            kills += late
            answers += self._check_progress(group, resize, members, bool(surplus), now)
        return messages, kills, answers

    def _adopt_forgotten(self, workers: list[WorkerState], now: float) -> None:
        """Adopt resizes that a previous coordinator has begun: groups with too many workers."""
        for worker in workers:
            is_surplus = not self._slots.is_current(slot_of(worker.worker_id))
            if is_surplus and self._starts_workers and worker.group in self._slots.target_sizes:
                size = self._slots.target_sizes[worker.group]
                resize = _Resize(size, size, now, FORGOTTEN_DRAIN_S, START_S)
                resize.is_automatic = worker.group in self._elastic
                self._resizes.setdefault(worker.group, resize)

    def _drain_surplus(
        self, resize: _Resize, surplus: list[WorkerState], now: float
    ) -> tuple[list[Message], list[to_launcher.KillWorker]]:
        messages: list[Message] = []
        kills: list[to_launcher.KillWorker] = []
        for worker in surplus:
            drained_at = resize.draining.get(worker.worker_id)
            if drained_at is None or (worker.state != DRAINING and now - drained_at > 1.0):
                resize.draining[worker.worker_id] = now if drained_at is None else drained_at
                messages.append((worker.worker_id, DrainWorker(resize.drain_timeout_s)))
            elif now - drained_at > resize.drain_timeout_s + LATE_S:
                kills.append(to_launcher.KillWorker(worker.worker_id))
        return messages, kills

    def _check_progress(
        self, group: str, resize: _Resize, workers: list[WorkerState], has_surplus: bool, now: float
    ) -> list[Answer]:
        """Return answers if a resize is finished; revert it if it has failed."""
        there = {slot_of(each.worker_id) for each in workers if each.state in SERVING}
        is_whole = there.issuperset(self._slots.of_group(group))
        if is_whole and not has_surplus:
            del self._resizes[group]
            log.info("workers of group %s: %d", group, self._slots.target_sizes[group])
            return _answers(resize)
        self._revert_if_failed(group, resize, there, now)
        return []

    def _revert_if_failed(self, group: str, resize: _Resize, there: set[str], now: float) -> None:
        """Return to the size before if new workers fail; callers are answered later."""
        new = self._slots.of_group(group)[resize.before :]
        problems = [self._slots.restarts(slot).problem for slot in new]
        problem = next(filter(None, problems), "")
        if problem:
            # Reasons may name files of this machine: these belong only in the log.
            is_private = "/" in problem
            shown = "a worker could not be started, as the log says" if is_private else problem
            resize.error, resize.kind = shown, FAILED
        elif not there.issuperset(new) and now - resize.begun_at > resize.start_timeout_s:
            resize.error = f"workers were not ready within {resize.start_timeout_s:g} s"
            resize.kind = TIMEOUT
        else:
            return
        kept = resize.before
        if resize.is_automatic:  # every worker that is ready is needed
            kept += len(list(itertools.takewhile(there.__contains__, new)))
            # An empty group would look intended.
            kept = max(kept, 1)
            self._failed[group] = resize.error
            resize.before = resize.target = kept
        log.error("group %s reverts to %d workers: %s", group, kept, resize.error)
        self._slots.resize(group, kept)


def _answers(resize: _Resize) -> list[Answer]:
    return [
        (frontend_id, PoolResult(call_id, (), resize.error, resize.kind))
        for frontend_id, call_id in resize.callers
    ]
