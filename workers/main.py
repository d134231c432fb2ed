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
from headrace.protocol.codec import DecodeError
from headrace.protocol.common.process import EX_CONFIG, become_child
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.common.shared_weights import memory_file_name
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.workers.build import build_engine, build_runner
from headrace.workers.engine.runner import Runner
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.process import inquiries
from headrace.workers.process.adapters import WorkerAdapters, with_adapters
from headrace.workers.process.calls import Calls
from headrace.workers.process.engine_thread import (
    EngineDied,
    EngineReady,
    EngineRefused,
    EngineStepped,
    EngineThread,
    Event,
    OperationDone,
)
from headrace.workers.process.metrics import WorkerMetrics
from headrace.workers.process.pauser import Pauser
from headrace.workers.process.pausing import Pausing
from headrace.workers.process.profiler import (
    STACKS,
    TORCH,
    Around,
    Begin,
    Profiler,
    start_stacks,
    start_torch,
)
from headrace.workers.process.profiling import Profiling
from headrace.workers.process.queue_limits import QueueGuard, QueueLimits
from headrace.workers.process.service import Service
from headrace.workers.process.sleeper import Sleeper
from headrace.workers.process.status_report import StatusReport
from headrace.workers.start_phases import StartPhases

log = logging.getLogger("worker")

HEARTBEAT_S = 0.25
SERVICE_BEAT_S = 1.0
ENDED = "The operator of the server has ended this request."
# How long the process stays to hand over its last messages.
LAST_WORDS_MS = 1000


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
        self._calls = Calls(worker_id, self._engine.submit, self._tell)
        self._sleeper = Sleeper(
            self._service,
            self._calls.operate_sleep,
            self._on_state,
            idle_s=group.sleep_idle_seconds,
            idle_level=group.sleep_idle_level,
        )
        self._calls.sleeper = self._sleeper
        self._adapters.add_to(self._calls)
        self._pauser = self._new_pauser()
        self._profiling = self._new_profiling()
        self._add_questions()
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
            """What has been dropped by a deep sleep."""
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

        pauser = Pauser(
            self._service,
            self._calls.operate,
            freeze,
            lambda: self._sleeper.state,
            lambda is_paused: self._on_state("paused" if is_paused else "resumed"),
        )
        Pausing(self._calls, pauser)
        return pauser

    def _new_profiling(self) -> Profiling:
        def mark_steps(around: Around) -> None:
            self._engine.around_step = around

        begin: dict[str, Begin] = {STACKS: start_stacks}
        if self._group.engine.engine != "fake":
            begin[TORCH] = start_torch
        profiler = Profiler(self._pool.profile_dir, self._id, mark_steps, begin)
        return Profiling(self._calls, profiler, self._pool.profile_max_seconds)

    def _add_questions(self) -> None:
        calls = self._calls
        for ask in (inquiries.ping, inquiries.stats, inquiries.memory):
            calls.add_question(ask.__name__, ask)
        calls.add("abort_all", lambda call, _: calls.answer(call, self._service.abort_all(ENDED)))
        calls.add("info", lambda call, _: calls.answer(call, inquiries.info(self._group)))

    def run(self) -> int:
        signal.signal(signal.SIGTERM, lambda *_: self._leave(self._pool.shutdown_timeout_s))
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
                self._beat()
                heartbeat_at = now + HEARTBEAT_S
            if now >= service_beat_at:
                self._service.beat()
                service_beat_at = now + SERVICE_BEAT_S
            poller.poll(max(0, round((heartbeat_at - now) * 1000)))
            self._turn()
        for socket in (self._control, self._requests):
            socket.close(linger=LAST_WORDS_MS)
        zmq.Context.instance().term()
        return self._exit_status

    def _turn(self) -> None:
        """Take what has arrived on any side."""
        for event in self._engine.take_events():
            self._on_event(event)
        # Control first: a worker that is to be paused from its start begins nothing before.
        while frames := _receive(self._control):
            self._on_control(frames[-1])
        while frames := _receive(self._requests):
            self._service.on_message(frames[0], frames[-1])
        self._pauser.turn(time.monotonic())
        self._profiling.turn(time.monotonic())
        self._adapters.turn(time.monotonic())
        if self._stop_at is None:
            self._sleeper.turn(time.monotonic())
        if self._stop_at is not None and (
            self._service.in_flight == 0 or time.monotonic() >= self._stop_at
        ):
            self._exit_status = 0

    def _on_event(self, event: Event) -> None:
        match event:
            case EngineStepped(outputs, stats, step_s):
                load = self._engine.load()
                if not load.running:  # who has had the last answer is not to see it run still
                    self._metrics.load(load)
                self._service.on_outputs(outputs)
                self._metrics.stepped(stats, step_s)
                self._totals = to_coordinator.WorkerTotals(
                    stats.prompt_tokens,
                    stats.generated_tokens,
                    stats.prefix_queried,
                    stats.cached_tokens,
                )
            case EngineRefused(request_id, refusal):
                self._service.on_refused(request_id, refusal)
            case EngineReady():
                log.info("%s", self._phases.describe())
                self._metrics.started(self._phases.seconds())
                self._sleeper.ready()
                self._report.ready()
            case OperationDone():
                self._calls.on_done(event)
            case EngineDied(reason, hopeless):
                self._tell(to_coordinator.WorkerFailed(self._id, reason))
                log.error("%s", reason)
                self._exit_status = EX_CONFIG if hopeless else 1

    def _on_control(self, data: bytes) -> None:
        try:
            message = to_worker.CONTROL.decode(data)
        except DecodeError as error:
            log.warning("dropped a malformed message: %s", error)
            return
        match message:
            case to_worker.Introduce():
                self._say_hello()
            case to_worker.Call():
                self._calls.on_call(message)
            case to_worker.Leave(drain_timeout_s):
                if self._stop_at is None:
                    self._leave(drain_timeout_s)
            case to_worker.FrontendGone(frontend_id):
                self._service.forget(frontend_id.encode())
            case _:
                assert_never(message)

    def _on_state(self, state: str) -> None:
        log.info("%s", state.replace("_", " "))
        if self._stop_at is None:
            self._say_hello()

    def _leave(self, drain_timeout_s: float) -> None:
        """Refuse new requests, and exit when those in flight have ended."""
        self._service.close()
        if self._pauser.is_holding:  # they would not end here
            self._service.hand_back()
        self._stop_at = time.monotonic() + drain_timeout_s
        self._tell(to_coordinator.WorkerLeaving(self._id))
        self._report.leaving(self._service.in_flight)

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
        self._tell(hello)

    def _beat(self) -> None:
        load = self._engine.load()
        waiting = load.waiting + self._service.held
        load = replace(load, waiting=waiting, waiting_tokens=self._service.waiting_tokens)
        self._metrics.load(load)
        self._report.beat(load)
        self._tell(to_coordinator.WorkerHeartbeat(self._id, load, self._totals))

    def _tell(self, message: to_coordinator.ControlMessage) -> None:
        """To the coordinator; while it is away, what does not fit its queue is not missed."""
        try:
            self._control.send(to_coordinator.CONTROL.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            log.debug("the coordinator does not listen")

    def _send(self, frontend: bytes, data: bytes) -> bool:
        try:
            self._requests.send_multipart([frontend, data], zmq.NOBLOCK)
        except zmq.Again:
            # It reads nothing. The gap in the numbers will tell it that a message is missing.
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
    """arguments: what stands on the command line, unless that is another's."""
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
    # The two threads take turns; the default of 5 ms would hold tokens back for as long.
    sys.setswitchinterval(0.0005)
    workers_on_host = args.workers_on_host or sum(each.workers for each in pool.groups)
    group = pool.group(args.group)
    shared_file = None
    if args.shared_weights is not None:
        shared_file = SharedFile(args.shared_weights, memory_file_name(group.name))
    status = Worker(args.worker_id, group, pool, notifier, workers_on_host, shared_file).run()
    # The engine's thread may be deep in a forward pass: it ends with the process.
    os._exit(status)


if __name__ == "__main__":
    main()
