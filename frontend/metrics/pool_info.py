"""What metrics and load reports show of the pool state, computed when they are asked for."""

import json
import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import PoolState, WorkerState

_ADAPTER_LABELS = ("model_name", "max_lora", "running_lora_adapters", "waiting_lora_adapters")


class AdapterInfo(Collector):
    """Collects `lora_requests_info`: the LoRA adapters of running and of waiting requests.

    The adapters are in the labels, by which gateways choose a server; the value is the time. There
    is one sample for each group that may have adapters. A gauge in the processes' files would keep
    a sample of each set of adapters that there ever was.
    """

    def __init__(self, config: PoolConfig, state: Callable[[], PoolState | None]) -> None:
        self._config, self._state = config, state

    def collect(self) -> Iterable[Metric]:
        state = self._state()
        groups = [group for group in self._config.groups if group.engine.enable_lora]
        if state is None or not groups:
            return
        family = GaugeMetricFamily(
            f"{self._config.metrics_prefix}lora_requests_info",
            "The time; the labels name the LoRA adapters of running and of waiting requests.",
            labels=_ADAPTER_LABELS,
        )
        for group in groups:
            family.add_metric(_adapter_labels(group, state), time.time())
        yield family


def _adapter_labels(group: GroupConfig, state: PoolState) -> list[str]:
    names = {
        adapter.adapter_id: adapter.name
        for each in state.groups
        if each.name == group.name
        for adapter in each.adapters
    }
    loads = [worker.load for worker in state.workers if worker.group == group.name]
    running = {each for load in loads for each in load.running_adapters}
    waiting = {each for load in loads for each in load.waiting_adapters}
    return [
        group.served_names[0],
        str(group.engine.max_loras),
        _joined(running, names),
        _joined(waiting, names),
    ]


def _joined(adapter_ids: Iterable[str], names: dict[str, str]) -> str:
    return ",".join(sorted(names[each] for each in adapter_ids if each in names))


def load_report(state: PoolState | None, form: str) -> str | None:
    """Return an ORCA load report of the pool, for the header `endpoint-load-metrics`.

    form: "TEXT" or "JSON" in any case. Returns None for other forms, and without a pool state.
    The named metrics are those of the reference: the mean use of the K/V caches, from 0 to 1, and
    the number of waiting requests.
    """
    if state is None or form.upper() not in ("TEXT", "JSON"):
        return None
    metrics = _named_metrics(state.workers)
    if form.upper() == "JSON":
        return f"JSON {json.dumps({'named_metrics': metrics})}"
    return "TEXT " + ", ".join(f"named_metrics.{name}={value}" for name, value in metrics.items())


def _named_metrics(workers: Sequence[WorkerState]) -> dict[str, float]:
    loads = [worker.load for worker in workers]
    usage = sum(load.kv_usage for load in loads) / max(1, len(loads))
    waiting = sum(load.waiting for load in loads)
    return {"kv_cache_usage_perc": round(usage, 6), "num_requests_waiting": float(waiting)}
