"""Report a worker's load: to the coordinator, in the metrics and to systemd."""

from collections.abc import Callable
from dataclasses import replace

from headrace.protocol.state import WorkerLoad
from headrace.protocol.to_coordinator import WorkerHeartbeat, WorkerTotals
from headrace.workers.engine.replica_engine import EngineStats
from headrace.workers.process.metrics import WorkerMetrics
from headrace.workers.process.service import Service
from headrace.workers.process.status_report import StatusReport


class LoadReport:
    """Reports from the messaging thread. load: returns the engine's load now. send: sends a
    heartbeat to the coordinator."""

    def __init__(
        self,
        worker_id: str,
        load: Callable[[], WorkerLoad],
        service: Service,
        metrics: WorkerMetrics,
        status: StatusReport,
        send: Callable[[WorkerHeartbeat], None],
    ) -> None:
        self._worker_id, self._load, self._service = worker_id, load, service
        self._metrics, self._status, self._send = metrics, status, send
        self._totals = WorkerTotals(0, 0, 0, 0)

    def before_outputs(self) -> None:
        """Show an engine that runs nothing any more before its last outputs are sent: a client that
        has its last output must not see it running."""
        load = self._load()
        if not load.running:
            self._metrics.load(load)

    def on_step(self, stats: EngineStats, step_s: float) -> None:
        """Count a step of the engine."""
        self._metrics.stepped(stats, step_s)
        self._totals = WorkerTotals(
            stats.prompt_tokens,
            stats.generated_tokens,
            stats.prefix_queried,
            stats.cached_tokens,
        )

    def send_heartbeat(self) -> None:
        """Report the load now; call it a few times a second."""
        load = self._load()
        waiting = load.waiting + self._service.held
        load = replace(load, waiting=waiting, waiting_tokens=self._service.waiting_tokens)
        self._metrics.load(load)
        self._status.beat(load)
        self._send(WorkerHeartbeat(self._worker_id, load, self._totals))
