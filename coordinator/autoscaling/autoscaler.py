"""Autoscaling: observe the load of groups, and carry out what their policies decide.

No sockets and no clock of its own.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from headrace.coordinator.actions import WorkerMessage
from headrace.coordinator.autoscaling.autoscale_metrics import AutoscaleMetrics
from headrace.coordinator.autoscaling.autoscale_policy import Decision, Observation, Policy
from headrace.coordinator.replica_slots import ReplicaSlots, slot_of
from headrace.coordinator.scaling import Scaling
from headrace.coordinator.sleeping import SleepingGroups
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

log = logging.getLogger("headrace.coordinator")

OBSERVE_S = 1.0
# How long a frontend's WakeRequest counts; frontends repeat it.
WAKE_REQUEST_S = 2.0


class Autoscaler:
    """The groups with `autoscaling`. Operators take precedence: nothing is decided for a group
    until their resize is done, or while all of it is paused; then the size holds for a down window.
    """

    def __init__(
        self,
        config: PoolConfig,
        slots: ReplicaSlots,
        scaling: Scaling,
        sleeping: SleepingGroups,
        metrics: AutoscaleMetrics,
    ) -> None:
        self._slots, self._scaling, self._sleeping = slots, scaling, sleeping
        self._metrics = metrics
        self._times = config.shutdown_timeout_s, config.start_timeout_s
        self._policies = {
            group.name: Policy(group.autoscaling)
            for group in config.groups
            if group.autoscaling is not None
        }
        self._wake_requested_at: dict[str, float] = {}
        self._sizes: dict[str, int] = {}  # as last decided
        self._held: dict[str, str] = {}
        self._observed_at: float | None = None

    def on_wake_request(self, group: str, now: float) -> None:
        """Note that requests wait for a group without a worker that could take them."""
        if group in self._policies:
            if group not in self._wake_requested_at:
                self._observed_at = None  # at once
            self._wake_requested_at[group] = now

    def needs_first_worker(self, group: str, workers: Iterable[WorkerState]) -> bool:
        """Return whether a group has no worker, and requests would start one."""
        policy = self._policies.get(group)
        is_elastic = policy is not None and policy.options.min_workers == 0
        is_empty = not any(each.group == group for each in workers)
        return is_elastic and is_empty and not self._slots.problem(group)

    def tick(
        self,
        workers: Iterable[WorkerState],
        frontends: Sequence[FrontendState],
        silent: Collection[str],
        now: float,
    ) -> list[WorkerMessage]:
        """Change sizes; return calls that wake up workers. silent: workers whose load is not known
        now."""
        if self._observed_at is not None and now - self._observed_at < OBSERVE_S:
            return []
        self._observed_at = now
        all_workers = list(workers)
        calls = []
        for group, policy in self._policies.items():
            members = [each for each in all_workers if each.group == group]
            # Paused workers only collect requests; more workers would not help.
            is_paused = bool(members) and all(each.is_paused for each in members)
            if group in self._scaling.groups or is_paused:
                policy.restart()
                self._sizes.pop(group, None)
                continue
            self._note_outcome(group, policy, now)
            seen = self._observe(group, members, frontends, silent, now)
            decision = policy.observe(seen)
            self._metrics.show(group, decision, seen, sum(each.state == READY for each in members))
            calls += self._act(group, seen, decision, members)
        return calls

    def _note_outcome(self, group: str, policy: Policy, now: float) -> None:
        size = self._slots.target_sizes[group]
        if self._scaling.pop_failure(group):
            policy.on_failed(size, now)
            self._sizes[group] = size
            self._metrics.failed(group)
        elif self._scaling.is_settled(group):
            policy.on_grown(size)
        # An operator's resize may be done within a moment.
        if self._sizes.setdefault(group, size) != size:
            policy.restart()
            self._sizes[group] = size

    def _observe(
        self,
        group: str,
        workers: list[WorkerState],
        frontends: Sequence[FrontendState],
        silent: Collection[str],
        now: float,
    ) -> Observation:
        # Requests of draining workers end there, and need no other worker.
        counted = [
            each.load
            for each in workers
            if each.state != STALLED and self._slots.is_current(slot_of(each.worker_id))
        ]
        held = sum(each.load.held.get(group, 0) for each in frontends)
        if now - self._wake_requested_at.get(group, -WAKE_REQUEST_S) < WAKE_REQUEST_S:
            held = max(held, 1)
        else:
            self._wake_requested_at.pop(group, None)
        return Observation(
            at=now,
            size=self._slots.target_sizes[group],
            requests=sum(load.running + load.waiting for load in counted) + held,
            tokens=sum(load.waiting_tokens for load in counted),
            silent=sum(each.state == READY and each.worker_id in silent for each in workers),
            problem=self._slots.problem(group),
        )

    def _act(
        self, group: str, seen: Observation, decision: Decision, workers: list[WorkerState]
    ) -> list[WorkerMessage]:
        """Wake up workers before any are started, or drained instead of sleeping ones."""
        self._log_capped(group, decision)
        staying = [
            each
            for each in workers
            if int(slot_of(each.worker_id).rpartition("-")[2]) < decision.size
        ]
        states = Counter(each.state for each in staying)
        awake = states[READY] + states[STARTING] + states[WAKING]
        missing = min(decision.needed, decision.size) - awake
        calls = self._sleeping.wake(staying, missing) if states[ASLEEP] and missing > 0 else []
        if decision.size < seen.size and (calls or states[WAKING]):
            return calls  # surplus workers are needed until those that wake up are ready
        if decision.size != seen.size:
            self._resize(group, seen, decision)
        return calls

    def _resize(self, group: str, seen: Observation, decision: Decision) -> None:
        log.info(
            "scaling group %s from %d to %d workers: %s",
            group,
            seen.size,
            decision.size,
            decision.reason,
        )
        self._sizes[group] = decision.size
        self._scaling.resize_automatically(group, decision.size, seen.at, self._times)
        self._metrics.decided(group, decision, seen.size)

    def _log_capped(self, group: str, decision: Decision) -> None:
        """Log why a group cannot grow, once and not each second."""
        why = decision.held.partition(", which")[0]
        if why and self._held.get(group) != why:
            log.warning(
                "group %s stays at %d workers but needs %d: %s",
                group,
                decision.size,
                decision.needed,
                decision.held,
            )
        self._held[group] = why
