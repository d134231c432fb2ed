"""Has the sizes of groups follow their loads: what the policies see, and what is done of what they
say. No sockets and no clock of its own.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from headrace.coordinator.autoscale_metrics import AutoscaleMetrics
from headrace.coordinator.autoscale_policy import Decision, Observation, Policy
from headrace.coordinator.replica_slots import Places, place_of
from headrace.coordinator.scaling import Scaling
from headrace.coordinator.sleeping import Sleeping
from headrace.protocol.config import PoolConfig
from headrace.protocol.state import (
    ASLEEP,
    READY,
    STALLED,
    STARTING,
    WAKING,
    FrontendState,
    WorkerState,
)
from headrace.protocol.to_worker import Call

log = logging.getLogger(__name__)

OBSERVE_S = 1.0
# How long a frontend's news that a group without workers is wanted counts: it says so again.
WANTED_S = 2.0


class Autoscaler:
    """The groups of a pool that have `autoscaling`. What operators order goes before: nothing is
    decided for a group until that is done, or while all of it is paused, and its size then holds
    for a down window."""

    def __init__(
        self,
        config: PoolConfig,
        places: Places,
        scaling: Scaling,
        sleeping: Sleeping,
        metrics: AutoscaleMetrics,
    ) -> None:
        self._places, self._scaling, self._sleeping = places, scaling, sleeping
        self._metrics = metrics
        self._times = config.shutdown_timeout_s, config.start_timeout_s
        self._policies = {
            group.name: Policy(group.autoscaling)
            for group in config.groups
            if group.autoscaling is not None
        }
        self._wanted_at: dict[str, float] = {}
        self._sizes: dict[str, int] = {}  # as last decided
        self._held: dict[str, str] = {}
        self._observed_at: float | None = None

    def on_wanted(self, group: str, now: float) -> None:
        """Requests wait for a group that has nobody who could take them."""
        if group in self._policies:
            if group not in self._wanted_at:
                self._observed_at = None  # at once
            self._wanted_at[group] = now

    def awaits_first(self, group: str, workers: Iterable[WorkerState]) -> bool:
        """Whether a group has no worker, and would have one if it were wanted."""
        policy = self._policies.get(group)
        is_elastic = policy is not None and policy.options.min_workers == 0
        is_empty = not any(each.group == group for each in workers)
        return is_elastic and is_empty and not self._places.problem(group)

    def tick(
        self,
        workers: Iterable[WorkerState],
        frontends: Sequence[FrontendState],
        silent: Collection[str],
        now: float,
    ) -> list[tuple[str, Call]]:
        """Time has passed: whom to wake; sizes are changed by the way. silent: workers whose load
        is not known now."""
        if self._observed_at is not None and now - self._observed_at < OBSERVE_S:
            return []
        self._observed_at = now
        everybody = list(workers)
        calls = []
        for group, policy in self._policies.items():
            mine = [each for each in everybody if each.group == group]
            # Paused workers only collect requests; more of them would do so, too.
            is_paused = bool(mine) and all(each.is_paused for each in mine)
            if group in self._scaling.groups or is_paused:
                policy.restart()
                self._sizes.pop(group, None)
                continue
            self._note_outcome(group, policy, now)
            seen = self._look(group, mine, frontends, silent, now)
            decision = policy.observe(seen)
            self._metrics.show(group, decision, seen, sum(each.state == READY for each in mine))
            calls += self._act(group, seen, decision, mine)
        return calls

    def _note_outcome(self, group: str, policy: Policy, now: float) -> None:
        size = self._places.wanted[group]
        if self._scaling.take_failure(group):
            policy.on_failed(size, now)
            self._sizes[group] = size
            self._metrics.failed(group)
        elif self._scaling.is_settled(group):
            policy.on_grown(size)
        if self._sizes.setdefault(group, size) != size:  # an operator's, done within a moment
            policy.restart()
            self._sizes[group] = size

    def _look(
        self,
        group: str,
        workers: list[WorkerState],
        frontends: Sequence[FrontendState],
        silent: Collection[str],
        now: float,
    ) -> Observation:
        # What leaving workers still have ends there, and needs nobody else.
        counted = [
            each.load
            for each in workers
            if each.state != STALLED and self._places.is_wanted(place_of(each.worker_id))
        ]
        held = sum(each.load.held.get(group, 0) for each in frontends)
        if now - self._wanted_at.get(group, -WANTED_S) < WANTED_S:
            held = max(held, 1)
        else:
            self._wanted_at.pop(group, None)
        return Observation(
            at=now,
            size=self._places.wanted[group],
            requests=sum(load.running + load.waiting for load in counted) + held,
            tokens=sum(load.waiting_tokens for load in counted),
            silent=sum(each.state == READY and each.worker_id in silent for each in workers),
            problem=self._places.problem(group),
        )

    def _act(
        self, group: str, seen: Observation, decision: Decision, workers: list[WorkerState]
    ) -> list[tuple[str, Call]]:
        """Who sleeps is woken before anybody is started, or let go in their stead."""
        self._say_held(group, decision)
        staying = [
            each
            for each in workers
            if int(place_of(each.worker_id).rpartition("-")[2]) < decision.size
        ]
        states = Counter(each.state for each in staying)
        awake = states[READY] + states[STARTING] + states[WAKING]
        missing = min(decision.needed, decision.size) - awake
        calls = self._sleeping.wake(staying, missing) if states[ASLEEP] and missing > 0 else []
        if decision.size < seen.size and (calls or states[WAKING]):
            return calls  # those that go are needed until those that wake are ready
        if decision.size != seen.size:
            self._resize(group, seen, decision)
        return calls

    def _resize(self, group: str, seen: Observation, decision: Decision) -> None:
        log.info(
            "group %s: from %d to %d workers: %s",
            group,
            seen.size,
            decision.size,
            decision.reason,
        )
        self._sizes[group] = decision.size
        self._scaling.aim(group, decision.size, seen.at, self._times)
        self._metrics.decided(group, decision, seen.size)

    def _say_held(self, group: str, decision: Decision) -> None:
        """Once, not each second."""
        why = decision.held.partition(", which")[0]
        if why and self._held.get(group) != why:
            log.warning(
                "group %s stays at %d workers, and needs %d: %s",
                group,
                decision.size,
                decision.needed,
                decision.held,
            )
        self._held[group] = why
