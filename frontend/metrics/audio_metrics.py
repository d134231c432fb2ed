"""Count the audio that is transcribed, and how fast that is."""

from prometheus_client import CollectorRegistry, Counter, Histogram

# fmt: off
REAL_TIME_BUCKETS = (
    0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)
# fmt: on
_LABELS = ("model_name",)


class AudioMetrics:
    """The metrics of recordings, by model."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self._received_s = Counter(
            f"{prefix}audio_received_seconds_total",
            "Seconds of the windows of recordings that were sent to workers.",
            _LABELS,
            registry=registry,
        )
        self._transcribed_s = Counter(
            f"{prefix}audio_transcribed_seconds_total",
            "Seconds of recordings whose text is complete.",
            _LABELS,
            registry=registry,
        )
        self._factor = Histogram(
            f"{prefix}audio_real_time_factor",
            "Seconds from a recording's arrival to the end of its text, for each second of it.",
            _LABELS,
            buckets=REAL_TIME_BUCKETS,
            registry=registry,
        )
        self._fallbacks = Counter(
            f"{prefix}audio_window_fallbacks_total",
            "Texts of windows that were rejected and written again at another temperature.",
            _LABELS,
            registry=registry,
        )

    def create_series(self, model_name: str) -> None:
        """Create the time series of a model before anything is counted."""
        for metric in (self._received_s, self._transcribed_s, self._factor, self._fallbacks):
            metric.labels(model_name)

    def count_window(self, model_name: str, seconds: float) -> None:
        """Count a window that is sent to a worker."""
        self._received_s.labels(model_name).inc(seconds)

    def count_fallback(self, model_name: str) -> None:
        """Count a text that is rejected for another one."""
        self._fallbacks.labels(model_name).inc()

    def count_recording(self, model_name: str, seconds: float, taken_s: float) -> None:
        """Count a recording whose text is complete."""
        self._transcribed_s.labels(model_name).inc(seconds)
        if seconds > 0:
            self._factor.labels(model_name).observe(taken_s / seconds)
