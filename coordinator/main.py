"""The coordinator process: sockets and a clock around the registry."""

import argparse
import logging
import os
import secrets
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, assert_never

import zmq

from headrace.coordinator import pausing
from headrace.coordinator.actions import Actions, Answer, WorkerMessage
from headrace.coordinator.adapter_manager import AdapterManager
from headrace.coordinator.autoscale_metrics import AutoscaleMetrics
from headrace.coordinator.autoscaler import Autoscaler
from headrace.coordinator.call_router import OWN, CallRouter, report_activity
from headrace.coordinator.held_calls import HeldCalls
from headrace.coordinator.metrics import PoolMetrics
from headrace.coordinator.pausing import PausedGroups
from headrace.coordinator.registry import LauncherOrder, Registry
from headrace.coordinator.scaling import Scaling
from headrace.coordinator.sleeping import SleepingGroups
from headrace.coordinator.stats_log import StatsLog
from headrace.coordinator.unit_processes import UnitProcesses
from headrace.protocol import PROTOCOL_VERSION, sockets, to_frontend, to_launcher, to_worker
from headrace.protocol.calls import (
    CallToCoordinator,
    GetActivity,
    LoadAdapter,
    UnloadAdapter,
    check_handled,
)
from headrace.protocol.codec import DecodeError
from headrace.protocol.common.awake_clock import AwakeClock
from headrace.protocol.common.pool_status import pool_status
from headrace.protocol.common.process import become_child
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import PoolConfig
from headrace.protocol.state import DRAINING, READY, STARTING, STATE
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
    WakeRequest,
    WorkerDraining,
    WorkerFailed,
    WorkerHeartbeat,
    WorkerHello,
)

log = logging.getLogger("headrace.coordinator")

LAUNCHER = "launcher"
TICK_S = 0.05
PUBLISH_AT_LEAST_EVERY_S = 1.0
# How often systemd gets the pool's status.
STATUS_S = 1.0


class Coordinator:
    """Receives messages, has the parts of the coordinator decide, and sends what they order.

    units: reports and kills processes where systemd runs them; None with a launcher.
    """

    def __init__(self, config: PoolConfig, notifier: Notifier, units: UnitProcesses | None) -> None:
        self._config, self._notifier, self._units = config, notifier, units
        context: zmq.Context[Any] = zmq.Context.instance()
        self._registry = Registry(config, epoch=secrets.token_hex(8), starts_workers=units is None)
        self._control = sockets.router(context, sockets.control_endpoint(config.run_dir))
        self._publisher = sockets.publisher(context, sockets.state_endpoint(config.run_dir))
        self._router = CallRouter()
        self._early: list[PoolCall] = []
        self._held = HeldCalls()
        self._unsent: list[WorkerMessage] = []
        slots = self._registry.replica_slots
        elastic = [group.name for group in config.groups if group.autoscaling]
        self._scaling = Scaling(slots, starts_workers=units is None, elastic=elastic)
        self._pausing = PausedGroups(
            (group.name for group in config.groups), config.run_dir / pausing.FILE
        )
        # Half of its batch: with more requests a worker's steps become long.
        busy_from = {group.name: group.engine.max_num_seqs // 2 for group in config.groups}
        self._sleeping = SleepingGroups(busy_from, config.wake_on_demand)
        self._adapters = AdapterManager(config)
        self._metrics = PoolMetrics(config)
        self._autoscaler = Autoscaler(
            config, slots, self._scaling, self._sleeping, AutoscaleMetrics(config)
        )
        self._add_call_handlers()
        self._stats: StatsLog | None = None
        if not config.disable_log_stats:
            names = [group.name for group in config.groups]
            self._stats = StatsLog(names, config.log_stats_interval_s, time.monotonic())
        self._clock = AwakeClock()
        self._published_at = self._notified_at = 0.0
        self._stopping = False

    def _add_call_handlers(self) -> None:
        router, registry = self._router, self._registry
        router.add_handler(
            GetActivity, lambda call, message, now: report_activity(message, registry.workers())
        )
        router.add_handler(LoadAdapter, self._on_load_adapter)
        router.add_handler(UnloadAdapter, self._adapters.on_unload)
        self._scaling.add_handlers(router)
        self._pausing.observe(router)
        self._sleeping.observe(router)
        check_handled(CallToCoordinator, router.handled)

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides what Ctrl-C means
        self._notifier.ready("waiting for workers and frontends")
        tick_at = 0.0
        while not self._stopping:
            self._control.poll(TICK_S * 1000)
            while frames := self._receive():
                self._on_message(frames[0].decode(errors="replace"), frames[-1])
            now = self._clock.now()
            if now >= tick_at:
                tick_at = now + TICK_S
                self._tick(now)
            self._publish(now)
        self._notifier.stopping()

    def _tick(self, now: float) -> None:
        for message in self._units.poll_changes() if self._units else ():
            self._handle("units", message, now)
        for order in self._registry.tick(now):
            self._order(order)
        self._answer(self._router.tick(now))
        self._perform(self._adapters.tick(now), now)
        again, late = self._held.retry(now)
        for call in again:
            self._on_call(call, now)
        self._answer(late)
        self._autoscale(now)
        self._scale(now)
        self._call(self._sleeping.tick(self._registry.workers(), now))
        self._metrics.show(self._registry.workers())
        self._log_stats()
        self._notifier.alive()

    def _log_stats(self) -> None:
        if self._stats is not None:
            for line in self._stats.lines(self._registry.workers(), time.monotonic()):
                log.info("%s", line)

    def _publish(self, now: float, at_once: bool = False) -> None:
        """Publish the state: changes of routing at once, mere load with the next tick."""
        due = now - self._published_at > (
            TICK_S if self._registry.dirty else PUBLISH_AT_LEAST_EVERY_S
        )
        if self._registry.launcher_known and (due or at_once or self._registry.urgent):
            state = self._adapters.shown_in(self._registry.state(self._scaling.groups))
            self._publisher.send(STATE.encode(state))
            self._published_at = now
            if self._notifier.is_heard and now - self._notified_at > STATUS_S:
                self._notifier.status(pool_status(state, self._config))
                self._notified_at = now

    def _on_message(self, sender: str, data: bytes) -> None:
        try:
            message = CONTROL.decode(data)
        except DecodeError as error:
            log.warning("dropping a malformed message: %s", error)
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

    def _handle(self, sender: str, message: ControlMessage, now: float) -> None:
        registry = self._registry
        match message:
            case WorkerHeartbeat():
                self._ask_unknown(sender, to_worker.CONTROL.encode(to_worker.Introduce()))
                registry.on_worker_heartbeat(message, now)
                if self._stats is not None:
                    group = message.worker_id.rpartition("-")[0]
                    self._stats.on_totals(message.worker_id, group, message.totals)
            case FrontendHeartbeat():
                self._ask_unknown(sender, to_frontend.CONTROL.encode(to_worker.Introduce()))
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
                self._pausing.on_result(message)
                self._answer(self._router.on_result(message, now))
            case PoolCall():
                self._on_call(message, now)
            case WakeRequest(group):
                self._autoscaler.on_wake_request(group, now)
                self._call(self._sleeping.on_wake_request(group, registry.workers()))
            case FrontendStarted():
                registry.on_frontend_started(message, now)
            case LauncherHello():
                registry.on_launcher(message, now)
                self._perform(self._adapters.resume(), now)
                early, self._early = self._early, []
                for call in early:
                    self._on_call(call, now)
            case ChildExited():
                self._on_exit(message, now)
            case _:
                assert_never(message)

    def _on_worker_hello(self, message: WorkerHello, now: float) -> None:
        states = {each.worker_id: each.state for each in self._registry.workers()}
        self._registry.on_worker_hello(message, now)
        again, self._unsent = self._unsent, []
        present = set(self._registry.worker_ids())
        self._call([each for each in again if each[0] in present])
        for worker in self._registry.workers():
            if worker.worker_id == message.worker_id:
                self._call(self._adapters.on_hello(worker, present))
            is_new = states.get(worker.worker_id) == STARTING and worker.state == READY
            if is_new and worker.worker_id == message.worker_id:
                self._call(self._pausing.on_started(worker))
                self._call(self._sleeping.on_started(worker))

    def _autoscale(self, now: float) -> None:
        registry = self._registry
        if registry.launcher_known and registry.starts_workers:
            workers, frontends = registry.workers(), registry.frontends()
            self._call(self._autoscaler.tick(workers, frontends, registry.silent(now), now))

    def _scale(self, now: float) -> None:
        before = self._scaling.groups
        messages, kills, answers = self._scaling.tick(self._registry.workers(), now)
        for worker_id, leave in messages:
            self._send(worker_id, to_worker.CONTROL.encode(leave))
        for kill in kills:
            self._order(kill)
        if answers or before != self._scaling.groups:
            self._publish(now, at_once=True)  # before the callers that wait for it are answered
        self._answer(answers)

    def _on_call(self, message: PoolCall, now: float) -> None:
        if not self._registry.launcher_known:
            self._early.append(message)  # it is not known yet which processes there are
            return
        workers = self._registry.workers()
        frontends = filter(self._registry.knows, self._registry.frontend_ids())
        self._perform(self._router.on_call(message, now, workers, frontends), now)

    def _on_load_adapter(self, call: LoadAdapter, message: PoolCall, now: float) -> Actions:
        """Load an adapter. Only a worker can check it: one is started if there is none."""
        group, workers = message.target.group, self._registry.workers()
        if self._autoscaler.needs_first_worker(group, workers):
            self._autoscaler.on_wake_request(group, now)
            self._held.hold(message, now)
            return Actions()
        self._held.release(message)
        return self._adapters.on_load(call, message, now)

    def _call(self, calls: Iterable[WorkerMessage]) -> None:
        for worker_id, call in calls:
            if not self._send(worker_id, to_worker.CONTROL.encode(call)):
                # It has just been started, or has not found a new coordinator yet.
                self._unsent.append((worker_id, call))

    def _perform(self, actions: Actions, now: float) -> None:
        if actions.publish:
            self._publish(now, at_once=True)
        self._call(actions.to_workers)
        for frontend_id, frontend_call in actions.to_frontends:
            self._send(frontend_id, to_frontend.CONTROL.encode(frontend_call))
        for call in actions.calls:
            self._on_call(call, now)
        self._answer(actions.answers)

    def _answer(self, answers: Iterable[Answer]) -> None:
        for frontend_id, result in answers:
            if frontend_id == OWN:
                self._perform(self._adapters.on_result(result), self._clock.now())
                continue
            self._send(frontend_id, to_frontend.CONTROL.encode(result))

    def _on_exit(self, message: ChildExited, now: float) -> None:
        was_frontend = message.process_id in self._registry.frontend_ids()
        has_left = any(
            each.worker_id == message.process_id and each.state == DRAINING
            for each in self._registry.workers()
        )
        self._registry.on_exit(message, now)
        self._answer(self._router.on_exit(message.process_id, now, has_left))
        if was_frontend:
            gone = to_worker.CONTROL.encode(to_worker.FrontendGone(message.process_id))
            for worker in self._registry.workers():
                self._send(worker.worker_id, gone)

    def _ask_unknown(self, sender: str, introduce: bytes) -> None:
        if not self._registry.knows(sender):
            self._send(sender, introduce)

    def _order(self, order: LauncherOrder) -> None:
        if isinstance(order, to_launcher.StartWorker):
            self._metrics.started(order.worker_id)
        if self._units is not None:
            self._units.execute(order)
            return
        self._send(LAUNCHER, to_launcher.CONTROL.encode(order))

    def _send(self, receiver: str, data: bytes) -> bool:
        """Send a message; return false if the receiver cannot be reached."""
        try:
            self._control.send_multipart([receiver.encode(), data], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.warning("cannot reach %s: %s", receiver, error)
            return False
        return True

    def _receive(self) -> Any:
        try:
            return self._control.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def _stop(self, *_: object) -> None:
        self._stopping = True


def main() -> None:
    parser = argparse.ArgumentParser(prog="headrace-coordinator")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--parent-pid", type=int, help="the launcher; none under systemd")
    args = parser.parse_args()
    config = PoolConfig.load(args.run_dir)
    become_child("coordinator", args.parent_pid, config.log_level)
    log.debug("pid %d", os.getpid())
    units = UnitProcesses(config) if args.parent_pid is None else None
    Coordinator(config, Notifier(), units).run()


if __name__ == "__main__":
    main()
