"""A pool at one moment, from the answers of its routes."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from headrace.console.client import Client, Unreachable

# Values by model and engine ("0" for "chat-0.3"), or by model alone, with "" for the engine.
Counters = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class WorkerSnapshot:
    """A worker.

    cache: share of the K/V cache in use. step_age_s: seconds since its last step.
    tokens: run since its start. queried, hits: prompt tokens looked up and found in the prefix
        cache.
    """

    name: str
    state: str
    running: int
    waiting: int
    cache: float
    step_age_s: float
    restarts: int
    tokens: float
    queried: float
    hits: float

    @property
    def hit_rate(self) -> float | None:
        """The share of prompt tokens found in the prefix cache; None if none was looked up."""
        return self.hits / self.queried if self.queried else None


@dataclass(frozen=True)
class GroupSnapshot:
    """A group. generated: tokens since the start of the pool. target_size: of its workers."""

    name: str
    models: tuple[str, ...]
    status: str
    target_size: int
    generated: float
    workers: tuple[WorkerSnapshot, ...]


@dataclass(frozen=True)
class Snapshot:
    """A pool. at: seconds on the taker's clock. frontends: names, and requests in flight."""

    at: float
    status: str
    load: int
    groups: tuple[GroupSnapshot, ...]
    frontends: tuple[tuple[str, int], ...] = ()
    problems: tuple[str, ...] = field(default=())


def take(client: Client, now: float) -> Snapshot:
    """Take a snapshot from a server. Raises Unreachable if an answer is missing."""
    health, load = client.json("/health?verbose"), client.json("/load?verbose")
    try:
        return read(health, load, counters(client.text("/metrics")), now)
    except (KeyError, TypeError, ValueError) as error:
        raise Unreachable(f"{client.url} answers, but not as this server does") from error


def read(
    health: dict[str, Any], load: dict[str, Any], counted: Mapping[str, Counters], now: float
) -> Snapshot:
    """Return a snapshot from the answers of /health, /load and /metrics."""
    loads = {worker["name"]: worker for group in load["groups"] for worker in group["workers"]}
    groups = tuple(_group(group, loads, counted) for group in health["groups"])
    frontends = tuple((each["name"], each["in_flight"]) for each in load["frontends"])
    failing = [group["name"] for group in health["groups"] if group["is_crash_loop"]]
    problems = tuple(f"workers of {name} die again and again" for name in failing)
    return Snapshot(now, health["status"], load["server_load"], groups, frontends, problems)


def counters(text: str) -> dict[str, Counters]:
    """Parse counters and sums in Prometheus' text format, by their names without the prefix."""
    found: defaultdict[str, defaultdict[tuple[str, str], float]]
    found = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            key = labels.get("model_name", ""), labels.get("engine", "")
            found[sample.name.rpartition(":")[2]][key] += sample.value
    return {name: dict(values) for name, values in found.items()}


def _group(
    answer: dict[str, Any], loads: dict[str, Any], counted: Mapping[str, Counters]
) -> GroupSnapshot:
    model = answer["models"][0]
    generated = counted.get("generation_tokens_total", {}).get((model, ""), 0.0)
    workers = tuple(_worker(each, loads, counted, model) for each in answer["workers"])
    models = tuple(answer["models"])
    return GroupSnapshot(
        answer["name"], models, answer["status"], answer["wanted"], generated, workers
    )


def _worker(
    answer: dict[str, Any], loads: dict[str, Any], counted: Mapping[str, Counters], model: str
) -> WorkerSnapshot:
    name = answer["name"]
    engine = name.rpartition("-")[2].partition(".")[0]

    def count(metric: str) -> float:
        return counted.get(metric, {}).get((model, engine), 0.0)

    return WorkerSnapshot(
        name=name,
        state="paused" if answer["is_paused"] and answer["state"] == "ready" else answer["state"],
        running=answer["running"],
        waiting=answer["waiting"],
        # The two answers may be of two moments, between which a worker has come.
        cache=loads.get(name, {}).get("kv_cache_usage", 0.0),
        step_age_s=answer["last_step_age_s"],
        restarts=answer["restarts"],
        tokens=count("iteration_tokens_total_sum"),
        queried=count("prefix_cache_queries_total"),
        hits=count("prefix_cache_hits_total"),
    )
