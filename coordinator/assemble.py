"""Make a coordinator of its parts."""

import secrets
import time

from headrace.coordinator import pausing
from headrace.coordinator.adapter_manager import AdapterManager
from headrace.coordinator.admin_calls import AdminCalls
from headrace.coordinator.autoscaling.autoscale_metrics import AutoscaleMetrics
from headrace.coordinator.autoscaling.autoscaler import Autoscaler
from headrace.coordinator.call_router import CallRouter
from headrace.coordinator.coordinator import Coordinator
from headrace.coordinator.coordinator_sockets import CoordinatorSockets
from headrace.coordinator.metrics import PoolMetrics
from headrace.coordinator.pausing import PausedGroups
from headrace.coordinator.registry import Registry
from headrace.coordinator.scaling import Scaling
from headrace.coordinator.sleeping import SleepingGroups
from headrace.coordinator.state_publisher import StatePublisher
from headrace.coordinator.stats_log import StatsLog
from headrace.coordinator.unit_processes import UnitProcesses
from headrace.coordinator.worker_calls import WorkerCalls
from headrace.protocol.calls import CallToCoordinator, check_handled
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import PoolConfig


def assemble_coordinator(
    config: PoolConfig, notifier: Notifier, units: UnitProcesses | None
) -> Coordinator:
    """Make the parts of a coordinator and join them.

    units: reports and kills processes where systemd runs them; None with a launcher.
    """
    names = [group.name for group in config.groups]
    registry = Registry(config, epoch=secrets.token_hex(8), starts_workers=units is None)
    slots = registry.replica_slots
    sockets = CoordinatorSockets(config.run_dir)
    worker_calls = WorkerCalls(sockets.send_to_worker)
    elastic = [group.name for group in config.groups if group.autoscaling]
    scaling = Scaling(slots, starts_workers=units is None, elastic=elastic)
    paused = PausedGroups(names, config.run_dir / pausing.FILE)
    # Half of its batch: with more requests a worker's steps become long.
    busy_from = {group.name: group.engine.max_num_seqs // 2 for group in config.groups}
    sleeping = SleepingGroups(busy_from, config.wake_on_demand)
    adapters = AdapterManager(config)
    metrics = PoolMetrics(config)
    autoscaler = Autoscaler(config, slots, scaling, sleeping, AutoscaleMetrics(config))
    publisher = StatePublisher(config, registry, scaling, adapters, notifier, sockets.publish)
    router = CallRouter()
    calls = AdminCalls(
        router, registry, adapters, autoscaler, publisher, worker_calls, sockets.send_to_frontend
    )
    calls.add_handlers(router)
    scaling.add_handlers(router)
    paused.observe(router)
    sleeping.observe(router)
    check_handled(CallToCoordinator, router.handled)
    stats = None
    if not config.disable_log_stats:
        stats = StatsLog(names, config.log_stats_interval_s, time.monotonic())
    return Coordinator(
        registry=registry,
        sockets=sockets,
        publisher=publisher,
        calls=calls,
        worker_calls=worker_calls,
        scaling=scaling,
        autoscaler=autoscaler,
        pausing=paused,
        sleeping=sleeping,
        adapters=adapters,
        metrics=metrics,
        stats=stats,
        units=units,
        notifier=notifier,
    )
