"""Make a worker of its parts."""

import logging
from typing import Any

from headrace.protocol.call_results import AbortedCount, Done
from headrace.protocol.calls import (
    AbortAll,
    CallToWorkers,
    ProfileKind,
    ResetPrefixCache,
    check_handled,
)
from headrace.protocol.common.host.cache_folder import cache_folder
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.workers.build import build_replica, reload_runner
from headrace.workers.engine.replica_engine import ReplicaEngine
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.process import inquiries
from headrace.workers.process.call_handlers import CallHandlers
from headrace.workers.process.engine_memory import EngineMemory
from headrace.workers.process.engine_operations import EngineOperations
from headrace.workers.process.engine_thread import EngineThread
from headrace.workers.process.load_report import LoadReport
from headrace.workers.process.metrics import WorkerMetrics
from headrace.workers.process.pauser import Pauser
from headrace.workers.process.presence import Presence
from headrace.workers.process.profiler import (
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
from headrace.workers.process.worker import Worker
from headrace.workers.process.worker_adapters import WorkerAdapters, load_served
from headrace.workers.process.worker_sockets import WorkerSockets
from headrace.workers.start_phases import StartPhases

log = logging.getLogger("headrace.worker")

ENDED = "The operator of the server has ended this request."


def assemble_worker(
    worker_id: str,
    group: GroupConfig,
    pool: PoolConfig,
    notifier: Notifier,
    workers_on_host: int,
    shared_file: SharedFile | None = None,
    freed_bytes: int = 0,
) -> Worker:
    """Make the parts of a worker and join them.

    shared_file: holds weights that the workers of a host share; None: each has its own.
    freed_bytes: see build_engine.
    """
    sockets = WorkerSockets(pool.run_dir, worker_id)
    send = sockets.send_to_coordinator
    phases = StartPhases.of_process()
    engine = _engine_thread(group, pool, workers_on_host, shared_file, phases, freed_bytes)
    operations = EngineOperations(engine.submit)
    guard = QueueGuard(_queue_limits(group), engine.last_load)
    service = Service(worker_id, engine.submit, sockets.send_to_frontend, guard)
    presence = Presence(worker_id, group.name, sockets.endpoint, send)
    sleeper = Sleeper(
        service,
        operations.operate,
        presence.on_state,
        idle_s=group.sleep_idle_seconds,
        idle_level=group.sleep_idle_level,
    )
    pauser = Pauser(
        service, operations.operate, engine.freeze, lambda: presence.state, presence.on_paused
    )
    adapters = WorkerAdapters(pool.run_dir, operations, presence.on_adapters)
    profiling = _profiling(worker_id, group, pool, engine, operations)
    calls = CallHandlers(worker_id, operations, send)
    inquiries.add_handlers(calls, group)
    for part in (sleeper, pauser, adapters, profiling):
        part.add_handlers(calls)
    _add_request_handlers(calls, service)
    check_handled(CallToWorkers, calls.handled)
    metrics = WorkerMetrics(pool.metrics_prefix, group.served_names[0], worker_id)
    status = StatusReport(notifier, pool.stall_timeout_s)
    return Worker(
        worker_id=worker_id,
        drain_timeout_s=pool.shutdown_timeout_s,
        sockets=sockets,
        engine=engine,
        operations=operations,
        service=service,
        calls=calls,
        presence=presence,
        sleeper=sleeper,
        pauser=pauser,
        adapters=adapters,
        profiling=profiling,
        phases=phases,
        metrics=metrics,
        status=status,
        load_report=LoadReport(worker_id, engine.load, service, metrics, status, send),
    )


def _engine_thread(
    group: GroupConfig,
    pool: PoolConfig,
    workers_on_host: int,
    shared_file: SharedFile | None,
    phases: StartPhases,
    freed_bytes: int,
) -> EngineThread:
    def build() -> ReplicaEngine:
        engine = build_replica(
            group.model_path,
            group.engine,
            workers_on_host,
            log.info,
            text_path=group.text_path,
            phases=phases,
            shared_file=shared_file,
            freed_bytes=freed_bytes,
            cache_folder=cache_folder(),
        )
        load_served(pool.run_dir, group.name, engine)
        return engine

    def load_again() -> Any:
        """Load what a deep sleep has dropped."""
        again = StartPhases()
        runner = reload_runner(
            group.model_path, group.engine, workers_on_host, log.info, again, shared_file,
            cache_folder=cache_folder(),
        )  # fmt: skip
        log.info("%s", again.describe())
        return runner

    return EngineThread(build, load_again)


def _queue_limits(group: GroupConfig) -> QueueLimits:
    engine = group.engine
    return QueueLimits(engine.max_num_seqs, engine.max_queue_requests, engine.max_queue_tokens)


def _profiling(
    worker_id: str,
    group: GroupConfig,
    pool: PoolConfig,
    engine: EngineThread,
    operations: EngineOperations,
) -> Profiling:
    begin: dict[ProfileKind, Begin] = {"stacks": start_stacks}
    if group.engine.runs_model:
        begin["torch"] = start_torch
    profiler = Profiler(pool.profile_dir, worker_id, engine.surround_steps, begin)
    return Profiling(operations, profiler, pool.profile_max_seconds)


def _add_request_handlers(calls: CallHandlers, service: Service) -> None:
    """Execute the calls that end requests and forget their prefixes."""

    def reset_prefix_cache(call: ResetPrefixCache, memory: EngineMemory) -> Done:
        memory.engine.reset_prefix_cache(call.reset_running_requests)
        return Done()

    calls.add(AbortAll, lambda _, reply: reply(AbortedCount(service.abort_all(ENDED))))
    calls.add_operation(ResetPrefixCache, reset_prefix_cache)
