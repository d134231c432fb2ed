"""One worker: handle messages and the engine's events until it ends."""

import logging
import signal
import time
from dataclasses import dataclass
from typing import assert_never

import zmq

from headrace.protocol import to_worker
from headrace.protocol.codec import DecodeError
from headrace.protocol.common.process import EX_CONFIG
from headrace.protocol.to_coordinator import WorkerFailed
from headrace.workers.process.call_handlers import CallHandlers
from headrace.workers.process.engine_operations import EngineOperations
from headrace.workers.process.engine_thread import (
    EngineDied,
    EngineReady,
    EngineRejected,
    EngineStepped,
    EngineThread,
    Event,
    OperationDone,
)
from headrace.workers.process.load_report import LoadReport
from headrace.workers.process.metrics import WorkerMetrics
from headrace.workers.process.pauser import Pauser
from headrace.workers.process.presence import Presence
from headrace.workers.process.profiler import Profiling
from headrace.workers.process.service import Service
from headrace.workers.process.sleeper import Sleeper
from headrace.workers.process.status_report import StatusReport
from headrace.workers.process.worker_adapters import WorkerAdapters
from headrace.workers.process.worker_sockets import WorkerSockets
from headrace.workers.start_phases import StartPhases

log = logging.getLogger("headrace.worker")

HEARTBEAT_S = 0.25
SERVICE_BEAT_S = 1.0
# Messages that are handled before outputs and heartbeats get their turn.
MESSAGES_AT_ONCE = 1000


@dataclass(eq=False, kw_only=True)
class Worker:
    """One worker from its start to its end; its parts are made and joined by `assemble_worker`.

    drain_timeout_s: how long its requests may take to end after a signal.
    """

    worker_id: str
    drain_timeout_s: float
    sockets: WorkerSockets
    engine: EngineThread
    operations: EngineOperations
    service: Service
    calls: CallHandlers
    presence: Presence
    sleeper: Sleeper
    pauser: Pauser
    adapters: WorkerAdapters
    profiling: Profiling
    phases: StartPhases
    metrics: WorkerMetrics
    status: StatusReport
    load_report: LoadReport
    _stop_at: float | None = None
    _exit_status: int | None = None

    def run(self) -> int:
        """Run until the end; return the exit status."""
        signal.signal(signal.SIGTERM, lambda *_: self._drain(self.drain_timeout_s))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides what Ctrl-C means
        self.presence.greet()
        self.engine.start()
        poller = zmq.Poller()
        self.sockets.register(poller)
        poller.register(self.engine.wake_fd, zmq.POLLIN)
        heartbeat_at = service_beat_at = 0.0
        while self._exit_status is None:
            now = time.monotonic()
            if now >= heartbeat_at:
                self.load_report.send_heartbeat()
                self.metrics.show_sleep(self.sleeper.state, self.sleeper.level)
                heartbeat_at = now + HEARTBEAT_S
            if now >= service_beat_at:
                self.service.send_heartbeats()
                service_beat_at = now + SERVICE_BEAT_S
            poller.poll(max(0, round((heartbeat_at - now) * 1000)))
            self._process_events()
        self.sockets.close()
        zmq.Context.instance().term()
        return self._exit_status

    def _process_events(self) -> None:
        """Handle all events and messages that have arrived."""
        for event in self.engine.drain_events():
            self._on_event(event)
        # Control first: a worker that must be paused from its start begins no request before.
        for _ in range(MESSAGES_AT_ONCE):
            if (data := self.sockets.receive_control()) is None:
                break
            self._on_control(data)
        for _ in range(MESSAGES_AT_ONCE):
            if (request := self.sockets.receive_request()) is None:
                break
            self.service.on_message(*request)
        self.pauser.tick(time.monotonic())
        self.profiling.tick(time.monotonic())
        self.adapters.tick(time.monotonic())
        if self._stop_at is None:
            self.sleeper.tick(time.monotonic())
        if self._stop_at is not None and (
            self.service.in_flight == 0 or time.monotonic() >= self._stop_at
        ):
            self._exit_status = 0

    def _on_event(self, event: Event) -> None:
        match event:
            case EngineStepped(outputs, stats, step_s):
                self.load_report.before_outputs()
                self.service.on_outputs(outputs)
                self.load_report.on_step(stats, step_s)
            case EngineRejected(request_id, rejection):
                self.service.on_rejected(request_id, rejection)
            case EngineReady():
                self.metrics.show_cache(event.cache)
                self._on_ready(event)
            case OperationDone():
                self.operations.on_done(event)
            case EngineDied(reason, hopeless):
                self.sockets.send_to_coordinator(WorkerFailed(self.worker_id, reason))
                log.error("%s", reason)
                self._exit_status = EX_CONFIG if hopeless else 1
            case _:
                assert_never(event)

    def _on_ready(self, event: EngineReady) -> None:
        log.info("%s", self.phases.describe())
        self.metrics.started(self.phases.seconds())
        self.adapters.on_loaded(event.adapter_ids)
        self.presence.on_loaded(event.adapter_ids, event.tasks)
        self.sleeper.ready()
        self.status.ready()

    def _on_control(self, data: bytes) -> None:
        try:
            message = to_worker.CONTROL.decode(data)
        except DecodeError as error:
            log.warning("dropping a malformed message: %s", error)
            return
        match message:
            case to_worker.Introduce():
                self.presence.greet()
            case to_worker.WorkerCall():
                self.calls.on_call(message)
            case to_worker.DrainWorker(drain_timeout_s):
                if self._stop_at is None:
                    self._drain(drain_timeout_s)
            case to_worker.FrontendGone(frontend_id):
                self.service.forget_frontend(frontend_id.encode())
            case _:
                assert_never(message)

    def _drain(self, drain_timeout_s: float) -> None:
        """Reject new requests, and exit when those in flight have ended."""
        self.service.close()
        if self.pauser.is_holding:  # they would not end here
            self.service.return_all()
        self._stop_at = time.monotonic() + drain_timeout_s
        self.presence.drain()
        self.status.draining(self.service.in_flight)
