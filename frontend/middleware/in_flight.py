"""Counts the requests for text that are being answered."""

from frontend.metrics import Metrics
from frontend.middleware import request_scope


def count_in_flight(metrics: Metrics) -> None:
    """The current request is in flight, until it has ended in whatever way."""
    metrics.enter()
    request_scope.current().cleanups.append(metrics.leave)
