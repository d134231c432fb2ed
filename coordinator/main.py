"""The coordinator process: the registry's sockets and clock."""

import argparse
import logging
import os
import secrets
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_never

import zmq

from headrace.coordinator import adapters
from headrace.coordinator.adapters import Adapters
from headrace.coordinator.autoscale_metrics import AutoscaleMetrics
from headrace.coordinator.autoscaler import Autoscaler
from headrace.coordinator.calls import OF_FRONTENDS, Calls
from headrace.coordinator.held_calls import HeldCalls
from headrace.coordinator.metrics import PoolMetrics
from headrace.coordinator.pausing import Pausing
from headrace.coordinator.registry import Order, Registry
from headrace.coordinator.scaling import IS_SCALING, SCALE, Scaling
from headrace.coordinator.sleeping import Sleeping
from headrace.coordinator.stats_log import StatsLog
from headrace.coordinator.unit_processes import RollCall
from headrace.protocol import PROTOCOL_VERSION, sockets, to_frontend, to_launcher, to_worker
from headrace.protocol.codec import DecodeError
from headrace.protocol.common.adapters import LOAD
from headrace.protocol.common.awake_clock import AwakeClock
from headrace.protocol.common.pool_status import pool_status
from headrace.protocol.common.process import become_child
from headrace.protocol.common.run_files import PAUSED_GROUPS
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
    WakeWanted,
    WorkerFailed,
    WorkerHeartbeat,
    WorkerHello,
    WorkerLeaving,
)

log = logging.getLogger("coordinator")

LAUNCHER = "launcher"
TICK_S = 0.05
PUBLISH_AT_LEAST_EVERY_S = 1.0
# How often systemd is told how the pool does.
STATUS_S = 1.0


class Coordinator:
    """Takes messages, lets the registry judge, passes its orders on, publishes its state.

    roll_call: says who runs where no launcher does (systemd).
    """

    def __init__(self, config: PoolConfig, notifier: Notifier, roll_call: RollCall | None) -> None:
        self._config, self._notifier, self._roll_call = config, notifier, roll_call
        context: zmq.Context[Any] = zmq.Context.instance()
        self._registry = Registry(
            config, epoch=secrets.token_hex(8), starts_workers=roll_call is None
        )
        self._control = sockets.router(context, sockets.control_endpoint(config.run_dir))
        self._publisher = sockets.publisher(context, sockets.state_endpoint(config.run_dir))
        self._calls = Calls()
        self._early: list[PoolCall] = []
        self._held = HeldCalls()
        self._unsent: list[tuple[str, to_worker.Call]] = []
        places, elastic = self._registry.places, [g.name for g in config.groups if g.autoscaling]
        self._scaling = Scaling(places, starts_workers=roll_call is None, elastic=elastic)
        self._pausing = Pausing(
            (group.name for group in config.groups), config.run_dir / PAUSED_GROUPS
        )
        # Half of its places: with more requests a worker's steps become long.
        busy_from = {group.name: group.engine.max_num_seqs // 2 for group in config.groups}
        self._sleeping = Sleeping(busy_from, config.wake_on_demand)
        self._adapters = Adapters(config)
        self._metrics = PoolMetrics(config)
        self._autoscaler = Autoscaler(
            config, places, self._scaling, self._sleeping, AutoscaleMetrics(config)
        )
        self._stats: StatsLog | None = None
        if not config.disable_log_stats:
            names = [group.name for group in config.groups]
            self._stats = StatsLog(names, config.log_stats_interval_s, time.monotonic())
        self._clock = AwakeClock()
        self._published_at = self._told_at = 0.0
        self._stopping = False

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
        for message in self._roll_call.news() if self._roll_call else ():
            self._handle("roll", message, now)
        for order in self._registry.tick(now):
            self._order(order)
        self._answer(self._calls.tick(now))
        self._follow(self._adapters.tick(now), now)
        again, late = self._held.take(now)
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
        """What changes routing goes out at once, mere load with the next tick."""
        due = now - self._published_at > (
            TICK_S if self._registry.dirty else PUBLISH_AT_LEAST_EVERY_S
        )
        if self._registry.launcher_known and (due or at_once or self._registry.urgent):
            state = self._adapters.shown_in(self._registry.state(self._scaling.groups))
            self._publisher.send(STATE.encode(state))
            self._published_at = now
            if self._notifier.is_heard and now - self._told_at > STATUS_S:
                self._notifier.status(pool_status(state, self._config))
                self._told_at = now

    def _on_message(self, sender: str, data: bytes) -> None:
        try:
            message = CONTROL.decode(data)
        except DecodeError as error:
            log.warning("dropped a malformed message: %s", error)
            return
        match message:
            case WorkerHello(version) | FrontendHello(version) | LauncherHello(version) if (
                version != PROTOCOL_VERSION
            ):
                log.error(
                    "%s speaks protocol %d, not %d: ignored", sender, version, PROTOCOL_VERSION
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
            case WorkerLeaving():
                registry.on_worker_leaving(message, now)
            case FrontendHello():
                registry.on_frontend_hello(message, now)
            case CallResult():
                self._pausing.on_result(message)
                self._answer(self._calls.on_result(message, now))
            case PoolCall():
                self._on_call(message, now)
            case WakeWanted(group):
                self._autoscaler.on_wanted(group, now)
                self._call(self._sleeping.on_wanted(group, registry.workers()))
            case FrontendStarted():
                registry.on_frontend_started(message, now)
            case LauncherHello():
                registry.on_launcher(message, now)
                self._follow(self._adapters.resume(), now)
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
            self._publish(now, at_once=True)  # before who waits for it is told
        self._answer(answers)

    def _on_call(self, message: PoolCall, now: float) -> None:
        if not self._registry.launcher_known:
            self._early.append(message)  # it is not known yet who there is to be called
            return
        if message.method in adapters.METHODS:
            self._on_adapter_call(message, now)
            return
        if message.method in (SCALE, IS_SCALING):
            self._answer(self._scaling.on_call(message, now))
            return
        if message.method in OF_FRONTENDS:
            there = filter(self._registry.knows, self._registry.frontend_ids())
            for frontend_id, call in self._calls.on_frontend_call(message, there, now):
                self._send(frontend_id, to_frontend.CONTROL.encode(call))
            return
        self._pausing.on_call(message)
        self._sleeping.on_call(message)
        calls, results = self._calls.on_call(message, self._registry.workers(), now)
        self._call(calls)
        self._answer(results)

    def _on_adapter_call(self, message: PoolCall, now: float) -> None:
        """Only a worker can tell whether an adapter is fit: one is started, if there is none."""
        workers = self._registry.workers()
        if message.method == LOAD and self._autoscaler.awaits_first(message.group, workers):
            self._autoscaler.on_wanted(message.group, now)
            self._held.hold(message, now)
            return
        self._held.release(message)
        self._follow(self._adapters.on_call(message, now), now)

    def _call(self, calls: list[tuple[str, to_worker.Call]]) -> None:
        for worker_id, call in calls:
            if not self._send(worker_id, to_worker.CONTROL.encode(call)):
                # It has only just been started, or not found a new coordinator yet.
                self._unsent.append((worker_id, call))

    def _follow(self, steps: adapters.Steps, now: float) -> None:
        if steps.publish:
            self._publish(now, at_once=True)
        for call in steps.calls:
            self._on_call(call, now)
        self._answer(steps.answers)

    def _answer(self, results: Sequence[tuple[str, to_frontend.PoolResult]]) -> None:
        for frontend_id, result in results:
            if frontend_id == adapters.OWN:
                self._follow(self._adapters.on_result(result), self._clock.now())
                continue
            self._send(frontend_id, to_frontend.CONTROL.encode(result))

    def _on_exit(self, message: ChildExited, now: float) -> None:
        was_frontend = message.process_id in self._registry.frontend_ids()
        has_left = any(
            each.worker_id == message.process_id and each.state == DRAINING
            for each in self._registry.workers()
        )
        self._registry.on_exit(message, now)
        self._answer(self._calls.on_gone(message.process_id, now, has_left))
        if was_frontend:
            gone = to_worker.CONTROL.encode(to_worker.FrontendGone(message.process_id))
            for worker in self._registry.workers():
                self._send(worker.worker_id, gone)

    def _ask_unknown(self, sender: str, introduce: bytes) -> None:
        if not self._registry.knows(sender):
            self._send(sender, introduce)

    def _order(self, order: Order) -> None:
        if isinstance(order, to_launcher.StartWorker):
            self._metrics.started(order.worker_id)
        if self._roll_call is not None:
            self._roll_call.obey(order)
            return
        self._send(LAUNCHER, to_launcher.CONTROL.encode(order))

    def _send(self, receiver: str, data: bytes) -> bool:
        """Whether it could be sent."""
        try:
            self._control.send_multipart([receiver.encode(), data], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.warning("%s cannot be reached: %s", receiver, error)
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
    roll_call = RollCall(config) if args.parent_pid is None else None
    Coordinator(config, Notifier(), roll_call).run()


if __name__ == "__main__":
    main()
