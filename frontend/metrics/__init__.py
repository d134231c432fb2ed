"""What a frontend counts, under the names that dashboards for vLLM know."""

from frontend.metrics.observer import LongestOutput, RequestObserver
from frontend.metrics.registry import Metrics

__all__ = ["LongestOutput", "Metrics", "RequestObserver"]
