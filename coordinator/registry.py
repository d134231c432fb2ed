"""The processes of the pool: messages and ticks in, orders to the launcher out.

No sockets and no clock of its own, so that every rule can be tested with a list of events.
"""

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from headrace.coordinator.frontends import Frontends
from headrace.coordinator.memory_watch import MemoryWatch
from headrace.coordinator.replica_slots import ReplicaSlots, group_of, slot_of
from headrace.protocol import to_launcher
from headrace.protocol.common.process import EX_CONFIG
from headrace.protocol.config import PoolConfig
from headrace.protocol.state import (
    DRAINING,
    RELOAD_FAILED,
    RELOAD_STARTING,
    SERVING,
    STALLED,
    STARTING,
    WAKING,
    FrontendState,
    GroupState,
    PoolState,
    ReloadState,
    WorkerLoad,
    WorkerState,
    WorkerStatus,
)
from headrace.protocol.to_coordinator import (
    ChildExited,
    FrontendHeartbeat,
    FrontendHello,
    FrontendStarted,
    LauncherHello,
    WorkerDraining,
    WorkerFailed,
    WorkerHeartbeat,
    WorkerHello,
)

log = logging.getLogger("headrace.coordinator")

IDLE = WorkerLoad(running=0, waiting=0, kv_usage=0.0, steps=0, step_age_s=0.0)

# Where systemd starts workers: how long after one has drained its successor is expected.
SUCCESSOR_S = 10.0
# How long a starting worker may be silent. How long it may take to load is configured.
START_SILENCE_S = 120.0
# Workers send heartbeats some times a second: an older one does not tell the current load.
SILENT_S = 2.0
KILL_AGAIN_S = 2.0
# Before another worker is started beside one that is to be replaced, after one has failed.
SUCCESSOR_RETRY_S = 1.0

LauncherOrder = to_launcher.StartWorker | to_launcher.KillWorker | to_launcher.KillFrontend


@dataclass
class _Worker:
    """The coordinator's record of a worker.

    expected_since: when it was started, as far as this coordinator knows.
    greeted: whether it has greeted this coordinator.
    is_load_known: whether it has sent this coordinator a heartbeat.
    """

    state: WorkerState
    expected_since: float
    heard_at: float
    greeted: bool = False
    is_load_known: bool = False
    killed_at: float | None = None
    failure: str = ""


@dataclass
class Registry:
    """Workers and frontends. `now`: seconds of a monotonic clock that stops while the coordinator
    does.

    launcher_known: false until the launcher has reported what runs. A restarted coordinator must
        not publish its state before: frontends would believe that all workers are gone.
    memory: tells whether want of memory is why a worker ends or stalls.
    starts_workers: whether to order missing workers; systemd restarts its own.
    """

    config: PoolConfig
    epoch: str
    starts_workers: bool = True
    memory: MemoryWatch = field(default_factory=MemoryWatch)
    _workers: dict[str, _Worker] = field(default_factory=dict)
    _vacated: dict[str, float] = field(default_factory=dict)  # slots to be filled again, since when
    _reload: ReloadState | None = None
    _successor_not_before: float = 0.0
    launcher_known: bool = False
    _version: int = 0
    dirty: bool = True
    urgent: bool = True

    def __post_init__(self) -> None:
        self._frontends = Frontends(self.config.stall_timeout_s)
        self.replica_slots = ReplicaSlots(self.config)
        self._on_demand = {
            group.name
            for group in self.config.groups
            if group.autoscaling is not None
            and group.autoscaling.min_workers == 0
            and self.config.wake_on_demand
            and self.starts_workers
        }

    def state(self, scaling: Collection[str] = ()) -> PoolState:
        """Return the pool state under the next version number. scaling: groups that an operator
        has resized."""
        self._version += 1
        self.dirty = self.urgent = False
        return PoolState(
            epoch=self.epoch,
            version=self._version,
            groups=tuple(
                GroupState(
                    group,
                    target_size,
                    self.replica_slots.problem(group),
                    self._is_replacing(group),
                    group in scaling,
                    group in self._on_demand,
                )
                for group, target_size in self.replica_slots.target_sizes.items()
            ),
            workers=self.workers(),
            frontends=self._frontends.states(),
            reload=self._reload,
        )

    def workers(self) -> tuple[WorkerState, ...]:
        """Return the workers; unlike `state`, this does not mark the state as published."""
        return tuple(worker.state for worker in self._workers.values())

    def knows(self, process_id: str) -> bool:
        """Return whether the process has said hello to this coordinator."""
        worker = self._workers.get(process_id)
        return self._frontends.knows(process_id) or (worker is not None and worker.greeted)

    def frontend_ids(self) -> list[str]:
        return self._frontends.ids()

    def silent(self, now: float) -> set[str]:
        """Return the workers without a recent heartbeat."""
        return {
            worker_id
            for worker_id, worker in self._workers.items()
            if not worker.is_load_known or now - worker.heard_at > SILENT_S
        }

    def frontends(self) -> tuple[FrontendState, ...]:
        """Return the frontends that serve."""
        return self._frontends.states()

    def worker_ids(self) -> list[str]:
        return list(self._workers)

    def tick(self, now: float) -> list[LauncherOrder]:
        """Return the orders that are due; call it a few times a second."""
        orders: list[LauncherOrder] = []
        for worker_id, worker in self._workers.items():
            stalled = self._why_to_kill(worker, now)
            if stalled:
                log.error("killing %s: it %s", worker_id, self.memory.with_pressure(stalled))
                self._set_state(worker, state=STALLED)
                worker.killed_at, worker.failure = now, stalled
                orders.append(to_launcher.KillWorker(worker_id))
        orders.extend(map(to_launcher.KillFrontend, self._frontends.find_frozen(now)))
        if self.launcher_known and self.starts_workers:
            orders.extend(self._start_missing(now))
            if self._reload is not None:
                orders.extend(self._reload_orders(self._reload, now))
        self._await_successors(now)
        return orders

    # Messages of the launcher

    def on_launcher(self, message: LauncherHello, now: float) -> None:
        """Take over the launcher's list of processes: the pool has no others."""
        self.launcher_known = True
        for group, target_size in message.target_sizes.items():
            if group in self.replica_slots.target_sizes:
                self.replica_slots.resize(group, target_size)
        for worker_id in message.last_workers:
            self._note_start(worker_id)
        published = {state.worker_id: state for state in message.published}
        for worker_id in message.workers:
            if worker_id not in self._workers:
                self._expect(worker_id, now, published.get(worker_id))
        for worker_id in set(self._workers) - set(message.workers):
            self._drop(worker_id)
        self._frontends.keep_only(message.frontends)
        serving = {state.frontend_id: state for state in message.published_frontends}
        for frontend_id in message.frontends:
            self._frontends.expect(frontend_id, now, serving.get(frontend_id))
        self.dirty = self.urgent = True

    def on_exit(self, message: ChildExited, now: float) -> None:
        """Drop a process that has ended. A worker's slot is refilled, later after each failure."""
        self._frontends.drop(message.process_id)
        worker = self._workers.get(message.process_id)
        if worker is not None:
            self._note_exit(worker, message, now)
            self._drop(message.process_id)
        self.dirty = self.urgent = True

    def on_reload(self, reload: ReloadState) -> None:
        """Note how far the launcher's rolling restart is."""
        if reload != self._reload:
            self._reload = reload
            self.dirty = self.urgent = True

    # Messages of workers

    def on_worker_hello(self, message: WorkerHello, now: float) -> None:
        if not self.replica_slots.is_known(slot_of(message.worker_id)):
            log.error("%s belongs to no replica slot of this pool", message.worker_id)
            return
        known = self._workers.get(message.worker_id)
        if known is None and self.launcher_known:
            return  # it has ended: its greeting took another way than the report of its end
        state = message.state if message.state in SERVING else STARTING
        if known is not None and known.state.state in (DRAINING, STALLED):
            state = known.state.state
        was_there = known is not None and known.state.state in SERVING
        load = IDLE if known is None else known.state.load
        greeting = WorkerState(
            message.worker_id,
            message.group,
            message.pid,
            state,
            message.endpoint,
            load,
            message.is_paused,
            message.adapters,
            message.tasks,
        )
        if known is None:
            known = _Worker(greeting, expected_since=now, heard_at=now)
        if state == WAKING and known.state.state != WAKING:
            known.expected_since = now
        self._workers[message.worker_id] = replace(
            known, state=greeting, heard_at=now, greeted=True
        )
        if state in SERVING and not was_there:
            log.info("%s is ready (pid %d)", message.worker_id, message.pid)
            self._vacated.pop(slot_of(message.worker_id), None)
            self.replica_slots.restarts(slot_of(message.worker_id)).ready(now)
        self.dirty = self.urgent = True

    def on_worker_heartbeat(self, message: WorkerHeartbeat, now: float) -> None:
        worker = self._workers.get(message.worker_id)
        if worker is None:
            return
        worker.heard_at, worker.is_load_known = now, True
        if worker.state.load != message.load:
            worker.state = replace(worker.state, load=message.load)
            self.dirty = True

    def on_worker_failed(self, message: WorkerFailed, now: float) -> None:
        worker = self._workers.get(message.worker_id)
        if worker is not None:
            worker.failure = message.reason

    def on_worker_draining(self, message: WorkerDraining, now: float) -> None:
        worker = self._workers.get(message.worker_id)
        if worker is not None:
            self._set_state(worker, state=DRAINING)

    # Messages about frontends

    def on_frontend_started(self, message: FrontendStarted, now: float) -> None:
        self._frontends.expect(message.frontend_id, now)

    def on_frontend_hello(self, message: FrontendHello, now: float) -> None:
        if self.launcher_known and message.frontend_id not in self._frontends.ids():
            return  # not started, or not yet reported: then its heartbeats have it greet again
        self._frontends.on_hello(message, now)
        self.dirty = self.urgent = True

    def on_frontend_heartbeat(self, message: FrontendHeartbeat, now: float) -> None:
        if self._frontends.on_heartbeat(message, now):
            self.dirty = True

    # Rules

    def _why_to_kill(self, worker: _Worker, now: float) -> str:
        """Return why a worker must be killed (silent, without progress, or loading too long), also
        again if it has not ended; "" if nothing is wrong."""
        if worker.killed_at is not None:
            return worker.failure if now - worker.killed_at > KILL_AGAIN_S else ""
        if worker.state.state == STALLED:  # the order of a previous coordinator may have been lost
            return "made no progress"
        silent_s, limit_s = now - worker.heard_at, self.config.stall_timeout_s
        if worker.state.state in (STARTING, WAKING):  # loading can block all its threads
            limit_s = START_SILENCE_S
            if now - worker.expected_since > self.config.start_timeout_s:
                return f"was not ready within {self.config.start_timeout_s:g} s"
        if silent_s > limit_s:
            return f"was silent for {limit_s:g} s"
        if worker.state.load.step_age_s > limit_s:
            return f"made no step for {limit_s:g} s"
        return ""

    def _start_missing(self, now: float) -> Iterable[LauncherOrder]:
        filled = [slot_of(worker_id) for worker_id in self._workers]
        on_host = sum(self.replica_slots.target_sizes.values())
        for restarts in list(self.replica_slots.slots_to_fill(filled, now)):
            worker_id = restarts.next_id()
            self._expect(worker_id, now)
            yield to_launcher.StartWorker(worker_id, group_of(restarts.slot), on_host)

    def _reload_orders(self, reload: ReloadState, now: float) -> Iterable[LauncherOrder]:
        """Start a worker beside the one that a rolling restart replaces, unless there is one; after
        a failed restart, end what was started beside it."""
        old = self._workers.get(reload.old)
        if old is None or old.state.state not in SERVING:
            return
        others = [id_ for id_ in self._workers if slot_of(id_) == reload.slot and id_ != reload.old]
        if reload.phase == RELOAD_FAILED:
            for worker_id in others:
                if self._workers[worker_id].killed_at is None:
                    self._workers[worker_id].killed_at = now
                    yield to_launcher.KillWorker(worker_id)
            return
        may_start = now >= self._successor_not_before and self.replica_slots.is_current(reload.slot)
        if reload.phase == RELOAD_STARTING and not others and may_start:
            worker_id = self.replica_slots.restarts(reload.slot).next_id()
            self._expect(worker_id, now)
            on_host = sum(self.replica_slots.target_sizes.values())
            yield to_launcher.StartWorker(worker_id, group_of(reload.slot), on_host)

    def _expect(self, worker_id: str, now: float, published: WorkerState | None = None) -> None:
        """Add a worker that has been started and has not greeted, except perhaps a previous
        coordinator."""
        self._note_start(worker_id)
        if published is None:
            state = WorkerState(worker_id, group_of(slot_of(worker_id)), 0, STARTING, "", IDLE)
        else:
            state = replace(published, load=IDLE)
        self._workers[worker_id] = _Worker(state, expected_since=now, heard_at=now)
        self.dirty = self.urgent = True

    def _note_start(self, worker_id: str) -> None:
        self.replica_slots.note(slot_of(worker_id))
        if self.replica_slots.is_known(slot_of(worker_id)):
            self.replica_slots.restarts(slot_of(worker_id)).note_start(worker_id)

    def _note_exit(self, worker: _Worker, message: ChildExited, now: float) -> None:
        slot = slot_of(message.process_id)
        if not self.replica_slots.is_current(slot):  # the group has become smaller
            self._vacated.pop(slot, None)
            return
        is_served = self._is_served(slot, but=message.process_id)
        if worker.state.state == DRAINING and message.exit_code in (0, None):
            if not is_served:
                self._vacated[slot] = now
            return
        self._vacated.pop(slot, None)
        reason = (
            worker.failure
            or self.memory.cause_of_end(message.exit_code, now)
            or _describe(message.exit_code)
        )
        if is_served:  # nothing is missing: no part of a crash loop
            self._successor_not_before = now + SUCCESSOR_RETRY_S
            log.error("worker %s ended (%s)", message.process_id, reason)
            return
        restarts = self.replica_slots.restarts(slot)
        delay_s = restarts.failed(reason, now, hopeless=message.exit_code == EX_CONFIG)
        then = f"; restarting in {delay_s:.1f} s" if self.starts_workers else ""
        log.error("worker %s ended (%s)%s", message.process_id, reason, then)
        if restarts.problem:
            log.error("group %s: %s", worker.state.group, restarts.problem)

    def _is_served(self, slot: str, but: str) -> bool:
        """Return whether another worker than one can serve in a slot."""
        return any(
            slot_of(each.worker_id) == slot and each.worker_id != but and each.state in SERVING
            for each in self.workers()
        )

    def _is_replacing(self, group: str) -> bool:
        return any(group_of(slot) == group for slot in self._vacated) or any(
            each.group == group and each.state == DRAINING for each in self.workers()
        )

    def _await_successors(self, now: float) -> None:
        """Stop waiting for successors that have not been started."""
        started = {slot_of(worker_id) for worker_id in self._workers}
        for slot, since in list(self._vacated.items()):
            if slot not in started and now - since > SUCCESSOR_S:
                del self._vacated[slot]
                self.dirty = self.urgent = True

    def _set_state(self, worker: _Worker, state: WorkerStatus) -> None:
        worker.state = replace(worker.state, state=state)
        self.dirty = self.urgent = True

    def _drop(self, worker_id: str) -> None:
        self._workers.pop(worker_id, None)
        self.dirty = self.urgent = True


def _describe(exit_code: int | None) -> str:
    if exit_code is None:
        return "its unit's status says why"
    return f"killed by signal {-exit_code}" if exit_code < 0 else f"exit status {exit_code}"
