"""What a frontend counts, under the names that dashboards for vLLM know."""

from headrace.frontend.metrics.observer import LongestOutput, RequestObserver
from headrace.frontend.metrics.registry import Metrics

__all__ = ["LongestOutput", "Metrics", "RequestObserver"]
