"""The worker process: sockets and heartbeats in this thread, the engine in another."""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, assert_never

import zmq

from headrace.protocol import PROTOCOL_VERSION, sockets, to_coordinator, to_worker
from headrace.protocol.call_results import AbortedCount, Done
from headrace.protocol.calls import (
    AbortAll,
    CallToWorkers,
    ProfileKind,
    ResetPrefixCache,
    check_handled,
)
from headrace.protocol.codec import DecodeError
from headrace.protocol.common.process import EX_CONFIG, become_child
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.common.shared_weights import memory_file_name
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.workers.build import build_engine, build_runner
from headrace.workers.engine.runner import Runner
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.process import inquiries
from headrace.workers.process.call_handlers import CallHandlers
from headrace.workers.process.engine_memory import EngineMemory
from headrace.workers.process.engine_thread import (
    EngineDied,
    EngineReady,
    EngineRejected,
    EngineStepped,
    EngineThread,
    Event,
    OperationDone,
)
from headrace.workers.process.metrics import WorkerMetrics
from headrace.workers.process.pauser import Pauser
from headrace.workers.process.profiler import (
    Around,
    Begin,
    Profiler,
    Profiling,
    start_stacks,
    start_torch,
)
from headrace.workers.process.queue_limits import QueueGuard, QueueLimits
from headrace.workers.process.service import Service
from headrace.workers.process.sleeper import Sleeper
from headrace.workers.process.status_report import StatusReport
from headrace.workers.process.worker_adapters import WorkerAdapters, with_adapters
from headrace.workers.start_phases import StartPhases

log = logging.getLogger("headrace.worker")

HEARTBEAT_S = 0.25
SERVICE_BEAT_S = 1.0
ENDED = "The operator of the server has ended this request."
# How long the process waits for its last messages to be sent.
LINGER_MS = 1000


class Worker:
    """One worker from its start to its end; `run` returns the exit status."""

    def __init__(
        self,
        worker_id: str,
        group: GroupConfig,
        pool: PoolConfig,
        notifier: Notifier,
        workers_on_host: int,
        shared_file: SharedFile | None = None,
    ) -> None:
        self._id, self._pool, self._group = worker_id, pool, group
        self._endpoint = sockets.requests_endpoint(pool.run_dir, worker_id)
        context: zmq.Context[Any] = zmq.Context.instance()
        self._requests = sockets.router(context, self._endpoint)
        self._control = sockets.dealer(context, sockets.control_endpoint(pool.run_dir), worker_id)
        self._phases = StartPhases.of_process()
        self._adapters = WorkerAdapters(pool.run_dir, group.name, self._say_hello)
        self._engine = self._new_engine(workers_on_host, shared_file)
        engine = group.engine
        limits = QueueLimits(
            engine.max_num_seqs, engine.max_queue_requests, engine.max_queue_tokens
        )
        guard = QueueGuard(limits, self._engine.last_load)
        self._service = Service(worker_id, self._engine.submit, self._send, guard)
        self._calls = CallHandlers(worker_id, self._engine.submit, self._send_to_coordinator)
        self._sleeper = Sleeper(
            self._service,
            self._calls.operate,
            self._on_state,
            idle_s=group.sleep_idle_seconds,
            idle_level=group.sleep_idle_level,
        )
        self._pauser = self._new_pauser()
        self._profiling = self._new_profiling()
        self._add_call_handlers()
        self._metrics = WorkerMetrics(pool.metrics_prefix, group.served_names[0], worker_id)
        self._totals = to_coordinator.WorkerTotals(0, 0, 0, 0)
        self._report = StatusReport(notifier, pool.stall_timeout_s)
        self._stop_at: float | None = None
        self._exit_status: int | None = None

    def _new_engine(self, workers_on_host: int, shared_file: SharedFile | None) -> EngineThread:
        group = self._group
        build = partial(
            build_engine,
            group.model_path,
            group.engine,
            workers_on_host,
            log.info,
            text_path=group.text_path,
            phases=self._phases,
            shared_file=shared_file,
        )

        def load_again() -> Runner:
            """Load what a deep sleep has dropped."""
            again = StartPhases()
            runner = build_runner(
                group.model_path, group.engine, workers_on_host, log.info, again, shared_file
            )
            log.info("%s", again.describe())
            return runner

        return EngineThread(with_adapters(build, self._adapters), load_again)

    def _new_pauser(self) -> Pauser:
        def freeze(is_frozen: bool) -> None:
            self._engine.is_frozen = is_frozen

        return Pauser(
            self._service,
            self._calls.operate,
            freeze,
            lambda: self._sleeper.state,
            lambda is_paused: self._on_state("paused" if is_paused else "resumed"),
        )

    def _new_profiling(self) -> Profiling:
        def mark_steps(around: Around) -> None:
            self._engine.around_step = around

        begin: dict[ProfileKind, Begin] = {"stacks": start_stacks}
        if self._group.engine.engine != "fake":
            begin["torch"] = start_torch
        profiler = Profiler(self._pool.profile_dir, self._id, mark_steps, begin)
        return Profiling(self._calls, profiler, self._pool.profile_max_seconds)

    def _add_call_handlers(self) -> None:
        def reset_prefix_cache(call: ResetPrefixCache, memory: EngineMemory) -> Done:
            memory.engine.reset_prefix_cache(call.reset_running_requests)
            return Done()

        calls = self._calls
        calls.add(AbortAll, lambda _, reply: reply(AbortedCount(self._service.abort_all(ENDED))))
        calls.add_operation(ResetPrefixCache, reset_prefix_cache)
        inquiries.add_handlers(calls, self._group)
        self._sleeper.add_handlers(calls)
        self._pauser.add_handlers(calls)
        self._adapters.add_handlers(calls)
        check_handled(CallToWorkers, calls.handled)

    def run(self) -> int:
        signal.signal(signal.SIGTERM, lambda *_: self._drain(self._pool.shutdown_timeout_s))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides what Ctrl-C means
        self._say_hello()
        self._engine.start()
        poller = zmq.Poller()
        for source in (self._requests, self._control, self._engine.wake_fd):
            poller.register(source, zmq.POLLIN)
        heartbeat_at = service_beat_at = 0.0
        while self._exit_status is None:
            now = time.monotonic()
            if now >= heartbeat_at:
                self._send_heartbeat()
                heartbeat_at = now + HEARTBEAT_S
            if now >= service_beat_at:
                self._service.send_heartbeats()
                service_beat_at = now + SERVICE_BEAT_S
            poller.poll(max(0, round((heartbeat_at - now) * 1000)))
            self._process_events()
        for socket in (self._control, self._requests):
            socket.close(linger=LINGER_MS)
        zmq.Context.instance().term()
        return self._exit_status

    def _process_events(self) -> None:
        """Handle all events and messages that have arrived."""
        for event in self._engine.drain_events():
            self._on_event(event)
        # Control first: a worker that must be paused from its start begins no request before.
        while frames := _receive(self._control):
            self._on_control(frames[-1])
        while frames := _receive(self._requests):
            self._service.on_message(frames[0], frames[-1])
        self._pauser.tick(time.monotonic())
        self._profiling.tick(time.monotonic())
        self._adapters.tick(time.monotonic())
        if self._stop_at is None:
            self._sleeper.tick(time.monotonic())
        if self._stop_at is not None and (
            self._service.in_flight == 0 or time.monotonic() >= self._stop_at
        ):
            self._exit_status = 0

    def _on_event(self, event: Event) -> None:
        match event:
            case EngineStepped(outputs, stats, step_s):
                load = self._engine.load()
                if not load.running:  # a client that has its last output must not see it running
                    self._metrics.load(load)
                self._service.on_outputs(outputs)
                self._metrics.stepped(stats, step_s)
                self._totals = to_coordinator.WorkerTotals(
                    stats.prompt_tokens,
                    stats.generated_tokens,
                    stats.prefix_queried,
                    stats.cached_tokens,
                )
            case EngineRejected(request_id, rejection):
                self._service.on_rejected(request_id, rejection)
            case EngineReady():
                log.info("%s", self._phases.describe())
                self._metrics.started(self._phases.seconds())
                self._sleeper.ready()
                self._report.ready()
            case OperationDone():
                self._calls.on_done(event)
            case EngineDied(reason, hopeless):
                self._send_to_coordinator(to_coordinator.WorkerFailed(self._id, reason))
                log.error("%s", reason)
                self._exit_status = EX_CONFIG if hopeless else 1

    def _on_control(self, data: bytes) -> None:
        try:
            message = to_worker.CONTROL.decode(data)
        except DecodeError as error:
            log.warning("dropping a malformed message: %s", error)
            return
        match message:
            case to_worker.Introduce():
                self._say_hello()
            case to_worker.WorkerCall():
                self._calls.on_call(message)
            case to_worker.DrainWorker(drain_timeout_s):
                if self._stop_at is None:
                    self._drain(drain_timeout_s)
            case to_worker.FrontendGone(frontend_id):
                self._service.forget_frontend(frontend_id.encode())
            case _:
                assert_never(message)

    def _on_state(self, state: str) -> None:
        log.info("%s", state.replace("_", " "))
        if self._stop_at is None:
            self._say_hello()

    def _drain(self, drain_timeout_s: float) -> None:
        """Reject new requests, and exit when those in flight have ended."""
        self._service.close()
        if self._pauser.is_holding:  # they would not end here
            self._service.return_all()
        self._stop_at = time.monotonic() + drain_timeout_s
        self._send_to_coordinator(to_coordinator.WorkerDraining(self._id))
        self._report.draining(self._service.in_flight)

    def _say_hello(self) -> None:
        hello = to_coordinator.WorkerHello(
            PROTOCOL_VERSION,
            self._id,
            self._group.name,
            os.getpid(),
            self._endpoint,
            self._sleeper.state,
            self._pauser.is_paused,
            self._adapters.ids,
        )
        self._send_to_coordinator(hello)

    def _send_heartbeat(self) -> None:
        load = self._engine.load()
        waiting = load.waiting + self._service.held
        load = replace(load, waiting=waiting, waiting_tokens=self._service.waiting_tokens)
        self._metrics.load(load)
        self._report.beat(load)
        self._send_to_coordinator(to_coordinator.WorkerHeartbeat(self._id, load, self._totals))

    def _send_to_coordinator(self, message: to_coordinator.ControlMessage) -> None:
        """Send a message; while the coordinator is away, what exceeds the queue is dropped."""
        try:
            self._control.send(to_coordinator.CONTROL.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            log.debug("the coordinator does not read")

    def _send(self, frontend: bytes, data: bytes) -> bool:
        try:
            self._requests.send_multipart([frontend, data], zmq.NOBLOCK)
        except zmq.Again:
            # It does not read. The gap in the numbers will tell it that a message was lost.
            return True
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True


def _receive(socket: Any) -> list[bytes] | None:
    try:
        frames: list[bytes] = socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
    return frames


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a worker. arguments: instead of the command line's, in a forked process."""
    parser = argparse.ArgumentParser(prog="headrace-worker")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--worker-id", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--parent-pid", type=int, help="the launcher; none under systemd")
    parser.add_argument("--workers-on-host", type=int, help="with itself (the pool's)")
    parser.add_argument("--shared-weights", type=Path, help="a memory file of the launcher's")
    args = parser.parse_args(arguments)
    pool = PoolConfig.load(args.run_dir)
    become_child(args.worker_id, args.parent_pid, pool.log_level)
    notifier = Notifier()
    # The two threads alternate; the default of 5 ms would delay tokens for as long.
    sys.setswitchinterval(0.0005)
    workers_on_host = args.workers_on_host or sum(each.workers for each in pool.groups)
    group = pool.group(args.group)
    shared_file = None
    if args.shared_weights is not None:
        shared_file = SharedFile(args.shared_weights, memory_file_name(group.name))
    status = Worker(args.worker_id, group, pool, notifier, workers_on_host, shared_file).run()
    # The engine's thread may be in a forward pass: it ends with the process.
    os._exit(status)


if __name__ == "__main__":
    main()
