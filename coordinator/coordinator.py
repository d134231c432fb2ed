"""The coordinator's loop: messages and ticks in, to the parts that decide; what they order out."""

import logging
import signal
import time
from dataclasses import dataclass, field
from typing import assert_never

from headrace.coordinator.adapter_manager import AdapterManager
from headrace.coordinator.admin_calls import AdminCalls
from headrace.coordinator.autoscaling.autoscaler import Autoscaler
from headrace.coordinator.coordinator_sockets import LAUNCHER, CoordinatorSockets
from headrace.coordinator.metrics import PoolMetrics
from headrace.coordinator.pausing import PausedGroups
from headrace.coordinator.registry import LauncherOrder, Registry
from headrace.coordinator.scaling import Scaling
from headrace.coordinator.sleeping import SleepingGroups
from headrace.coordinator.state_publisher import TICK_S, StatePublisher
from headrace.coordinator.stats_log import StatsLog
from headrace.coordinator.unit_processes import UnitProcesses
from headrace.coordinator.worker_calls import WorkerCalls
from headrace.protocol import PROTOCOL_VERSION
from headrace.protocol.codec import DecodeError
from headrace.protocol.common.awake_clock import AwakeClock
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.state import DRAINING, READY, STARTING
from headrace.protocol.to_coordinator import (
    CONTROL,
    CallResult,
    ChildExited,
    ControlMessage,
    FrontendHeartbeat,
    FrontendHello,
    FrontendStarted,
    LauncherHello,
    PoolCall,
    ReloadProgress,
    WakeRequest,
    WorkerDraining,
    WorkerFailed,
    WorkerHeartbeat,
    WorkerHello,
)
from headrace.protocol.to_launcher import StartWorker
from headrace.protocol.to_worker import FrontendGone, Introduce

log = logging.getLogger("headrace.coordinator")

# Messages that are handled before the clock gets its turn.
MESSAGES_AT_ONCE = 1000


@dataclass(eq=False, kw_only=True)
class Coordinator:
    """Receives messages, has its parts decide, and sends what they order.

    The parts are made and joined by `assemble_coordinator`.
    stats: lines for the log; None: none are logged.
    units: reports and kills processes where systemd runs them; None with a launcher.
    """

    registry: Registry
    sockets: CoordinatorSockets
    publisher: StatePublisher
    calls: AdminCalls
    worker_calls: WorkerCalls
    scaling: Scaling
    autoscaler: Autoscaler
    pausing: PausedGroups
    sleeping: SleepingGroups
    adapters: AdapterManager
    metrics: PoolMetrics
    stats: StatsLog | None
    units: UnitProcesses | None
    notifier: Notifier
    _clock: AwakeClock = field(default_factory=AwakeClock)
    _is_stopping: bool = False

    def run(self) -> None:
        """Run until a signal."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides what Ctrl-C means
        self.notifier.ready("waiting for workers and frontends")
        tick_at = 0.0
        while not self._is_stopping:
            self.sockets.wait(TICK_S)
            for _ in range(MESSAGES_AT_ONCE):
                if (received := self.sockets.receive()) is None:
                    break
                self._on_message(*received)
            now = self._clock.now()
            if now >= tick_at:
                tick_at = now + TICK_S
                self._tick(now)
            self.publisher.publish_if_due(now)
        self.notifier.stopping()

    def _stop(self, *_: object) -> None:
        self._is_stopping = True

    def _tick(self, now: float) -> None:
        for message in self.units.poll_changes() if self.units else ():
            self._handle("units", message, now)
        for order in self.registry.tick(now):
            self._order(order)
        self.calls.tick(now)
        self._autoscale(now)
        self._scale(now)
        self.worker_calls.send(self.sleeping.tick(self.registry.workers(), now))
        self.metrics.show(self.registry.workers())
        self._log_stats()
        self._log_unreachable()
        if warning := self.registry.memory.warning(self.registry.workers(), now):
            log.warning("%s", warning)
        self.notifier.alive()

    def _autoscale(self, now: float) -> None:
        registry = self.registry
        if registry.launcher_known and registry.starts_workers:
            workers, frontends = registry.workers(), registry.frontends()
            self.worker_calls.send(
                self.autoscaler.tick(workers, frontends, registry.silent(now), now)
            )

    def _scale(self, now: float) -> None:
        before = self.scaling.groups
        messages, kills, answers = self.scaling.tick(self.registry.workers(), now)
        for worker_id, drain in messages:
            self.sockets.send_to_worker(worker_id, drain)
        for kill in kills:
            self._order(kill)
        if answers or before != self.scaling.groups:
            self.publisher.publish(now)  # before the callers that wait for it are answered
        self.calls.answer(answers, now)

    def _order(self, order: LauncherOrder) -> None:
        if isinstance(order, StartWorker):
            self.metrics.started(order.worker_id)
        if self.units is not None:
            self.units.execute(order)
        else:
            self.sockets.send_to_launcher(order)

    def _log_unreachable(self) -> None:
        def is_there(receiver: str) -> bool:
            return receiver == LAUNCHER or self.registry.knows(receiver)

        for line in self.sockets.unreachable.warnings(is_there, time.monotonic()):
            log.warning("%s", line)

    def _log_stats(self) -> None:
        if self.stats is not None:
            for line in self.stats.lines(self.registry.workers(), time.monotonic()):
                log.info("%s", line)

    # Messages

    def _on_message(self, sender: str, data: bytes) -> None:
        try:
            message = CONTROL.decode(data)
        except DecodeError as error:
            log.warning("dropping a malformed message: %s", error)
            return
        if not self._is_from(sender, message):
            log.warning("ignoring a %s of another sender", type(message).__name__)
            return
        match message:
            case WorkerHello(version) | FrontendHello(version) | LauncherHello(version) if (
                version != PROTOCOL_VERSION
            ):
                log.error(
                    "ignoring %s: it speaks protocol %d, not %d", sender, version, PROTOCOL_VERSION
                )
            case _:
                self._handle(sender, message, self._clock.now())

    def _is_from(self, sender: str, message: ControlMessage) -> bool:
        """Return whether a message comes from the process that it is about, or may come from."""
        match message:
            case WorkerHello() | WorkerHeartbeat() | WorkerFailed() | WorkerDraining():
                return sender == message.worker_id
            case FrontendHello() | FrontendHeartbeat():
                return sender == message.frontend_id
            case CallResult():
                return sender == message.process_id
            case PoolCall():
                return sender == message.frontend_id and self.registry.knows(sender)
            case WakeRequest():
                return self.registry.knows(sender)
            case LauncherHello() | ChildExited() | FrontendStarted() | ReloadProgress():
                return sender == LAUNCHER
            case _:
                assert_never(message)

    def _handle(self, sender: str, message: ControlMessage, now: float) -> None:
        registry = self.registry
        match message:
            case WorkerHeartbeat():
                self._on_worker_heartbeat(sender, message, now)
            case FrontendHeartbeat():
                if not registry.knows(sender):
                    self.sockets.send_to_frontend(sender, Introduce())
                registry.on_frontend_heartbeat(message, now)
            case WorkerHello():
                self._on_worker_hello(message, now)
            case WorkerFailed():
                registry.on_worker_failed(message, now)
            case WorkerDraining():
                registry.on_worker_draining(message, now)
            case FrontendHello():
                registry.on_frontend_hello(message, now)
            case CallResult():
                self.pausing.on_result(message)
                self.calls.on_result(message, now)
            case PoolCall():
                self.calls.on_call(message, now)
            case WakeRequest(group):
                self.autoscaler.on_wake_request(group, now)
                self.worker_calls.send(self.sleeping.on_wake_request(group, registry.workers()))
            case FrontendStarted():
                registry.on_frontend_started(message, now)
            case LauncherHello():
                registry.on_launcher(message, now)
                self.calls.on_launcher(now)
            case ChildExited():
                self._on_exit(message, now)
            case ReloadProgress(reload):
                registry.on_reload(reload)
            case _:
                assert_never(message)

    def _on_worker_heartbeat(self, sender: str, message: WorkerHeartbeat, now: float) -> None:
        if not self.registry.knows(sender):
            self.sockets.send_to_worker(sender, Introduce())
        self.registry.on_worker_heartbeat(message, now)
        if self.stats is not None:
            group = message.worker_id.rpartition("-")[0]
            self.stats.on_totals(message.worker_id, group, message.totals)

    def _on_worker_hello(self, message: WorkerHello, now: float) -> None:
        states = {each.worker_id: each.state for each in self.registry.workers()}
        self.registry.on_worker_hello(message, now)
        present = set(self.registry.worker_ids())
        self.worker_calls.resend(present)
        for worker in self.registry.workers():
            if worker.worker_id != message.worker_id:
                continue
            self.worker_calls.send(self.adapters.on_hello(worker, present))
            if states.get(worker.worker_id) == STARTING and worker.state == READY:
                self.worker_calls.send(self.pausing.on_started(worker))
                self.worker_calls.send(self.sleeping.on_started(worker))

    def _on_exit(self, message: ChildExited, now: float) -> None:
        was_frontend = message.process_id in self.registry.frontend_ids()
        has_drained = any(
            each.worker_id == message.process_id and each.state == DRAINING
            for each in self.registry.workers()
        )
        self.registry.on_exit(message, now)
        self.calls.on_exit(message.process_id, now, has_drained)
        if was_frontend:
            for worker in self.registry.workers():
                self.sockets.send_to_worker(worker.worker_id, FrontendGone(message.process_id))
