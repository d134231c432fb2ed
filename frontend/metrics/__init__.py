"""Count what a frontend does, under the metric names that dashboards for vLLM know."""

from headrace.frontend.metrics.registry import Metrics
from headrace.frontend.metrics.request_observer import LongestOutput, RequestObserver

__all__ = ["LongestOutput", "Metrics", "RequestObserver"]
