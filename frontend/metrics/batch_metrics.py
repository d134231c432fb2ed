"""Metrics of batches: how many there are, and how many of their lines have ended."""

from prometheus_client import CollectorRegistry, Counter, Gauge

STATUSES = (
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
)
OUTCOMES = ("completed", "failed")


class BatchMetrics:
    """The metrics of a frontend's batches; the numbers of batches are those of the store."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self._batches = Gauge(
            f"{prefix}batches",
            "Batches in the store, by status.",
            ("status",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._lines = Counter(
            f"{prefix}batch_lines",
            "Lines of batches that have ended, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self._in_flight = Gauge(
            f"{prefix}batch_lines_in_flight",
            "Lines of batches that are being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        for outcome in OUTCOMES:
            self._lines.labels(outcome)

    def show_batches(self, counts: dict[str, int]) -> None:
        """Show how many batches there are of each status."""
        for status in STATUSES:
            self._batches.labels(status).set(counts.get(status, 0))

    def count_lines(self, completed: int, failed: int) -> None:
        """Count lines that have ended."""
        for outcome, count in zip(OUTCOMES, (completed, failed), strict=True):
            if count:
                self._lines.labels(outcome).inc(count)

    def show_in_flight(self, lines: int) -> None:
        """Show how many lines run in this process."""
        self._in_flight.set(lines)
