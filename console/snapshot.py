"""A pool at one moment, from the answers of its routes."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from headrace.console.client import Client, Unreachable

BATCHES = "/v1/batches?limit=100"
ACTIVE_BATCHES = ("validating", "in_progress", "finalizing", "cancelling")

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
    """A group. generated, read: tokens since the start of the pool. target_size: of its workers.
    tasks: of its model; empty before that is known."""

    name: str
    models: tuple[str, ...]
    status: str
    target_size: int
    generated: float
    workers: tuple[WorkerSnapshot, ...]
    tasks: tuple[str, ...] = ()
    read: float = 0.0

    @property
    def generates(self) -> bool:
        """Whether its model writes text, as far as is known."""
        return not self.tasks or not {"generate", "transcription"}.isdisjoint(self.tasks)


@dataclass(frozen=True)
class BatchSnapshot:
    """A batch. done, failed: lines that have ended, and those of them with an error."""

    name: str
    status: str
    done: int
    failed: int
    total: int

    @property
    def is_active(self) -> bool:
        """Whether the batch has not ended."""
        return self.status in ACTIVE_BATCHES


@dataclass(frozen=True)
class Snapshot:
    """A pool. at: seconds on the taker's clock. frontends: names, and requests in flight.
    batches: those that have not ended."""

    at: float
    status: str
    load: int
    groups: tuple[GroupSnapshot, ...]
    frontends: tuple[tuple[str, int], ...] = ()
    problems: tuple[str, ...] = field(default=())
    batches: tuple[BatchSnapshot, ...] = ()


def take(client: Client, now: float) -> Snapshot:
    """Take a snapshot from a server. Raises Unreachable if an answer is missing."""
    health, load = client.json("/health?verbose"), client.json("/load?verbose")
    try:
        counted = counters(client.text("/metrics"))
        # A server that has none need not open its store to say so.
        batches = client.json(BATCHES)["data"] if any_values(counted, "batches") else []
        return replace(read(health, load, counted, now), batches=active_batches(batches))
    except (KeyError, TypeError, ValueError) as error:
        raise Unreachable(f"{client.url} answers, but not as this server does") from error


def read(
    health: dict[str, Any], load: dict[str, Any], counted: Mapping[str, Counters], now: float
) -> Snapshot:
    """Return a snapshot from the answers of /health, /load and /metrics."""
    loads = {worker["name"]: worker for group in load["groups"] for worker in group["workers"]}
    tasks = {group["name"]: tuple(group.get("tasks", ())) for group in load["groups"]}
    groups = tuple(_group(group, loads, counted, tasks) for group in health["groups"])
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


def any_values(counted: Mapping[str, Counters], name: str) -> bool:
    """Return whether a metric is there and not zero."""
    return any(counted.get(name, {}).values())


def active_batches(answer: list[dict[str, Any]]) -> tuple[BatchSnapshot, ...]:
    """Return the batches that have not ended, from an answer of /v1/batches."""
    batches = [_batch(each["id"], each["status"], each["request_counts"]) for each in answer]
    return tuple(each for each in batches if each.is_active)


def _batch(name: str, status: str, counts: dict[str, int]) -> BatchSnapshot:
    done = counts["completed"] + counts["failed"]
    return BatchSnapshot(name, status, done, counts["failed"], counts["total"])


def _group(
    answer: dict[str, Any],
    loads: dict[str, Any],
    counted: Mapping[str, Counters],
    tasks: Mapping[str, tuple[str, ...]],
) -> GroupSnapshot:
    model = answer["models"][0]

    def total(metric: str) -> float:
        """Return what all engines of the model have counted."""
        counts = counted.get(metric, {}).items()
        return sum(count for (counted_for, _), count in counts if counted_for == model)

    workers = tuple(_worker(each, loads, counted, model) for each in answer["workers"])
    models = tuple(answer["models"])
    return GroupSnapshot(
        answer["name"],
        models,
        answer["status"],
        answer["wanted"],
        total("generation_tokens_total"),
        workers,
        tasks.get(answer["name"], ()),
        total("prompt_tokens_total"),
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
