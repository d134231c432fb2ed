"""Plot simulated days. Only this module imports matplotlib, and only if plots are asked for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.scaling.pool import Day
from bench.scaling.results import Waits

Floats = NDArray[np.float64]

MAX_COST = 2.6  # worker hours over the oracle's; greater values are drawn at the edge
LEVELS = [0, 1, 10, 100, 1000]


def plot_day(file: Path, day: Day, expected: Floats, needed: Floats, waited: Waits) -> None:
    """Plot load, workers and latency of a whole day, by the minute."""
    figure, (load, workers, latency) = _panels(3)
    minutes = _minutes(day.came)
    hours = np.arange(len(minutes)) * 24 / len(minutes)
    load.plot(hours, minutes, label="requests per second", color="tab:blue")
    load.plot(hours, _minutes(day.running + day.waiting) / 20, label="in flight / 20", color="gray")
    load.set_title("load")
    _workers(workers, hours, day, needed, _minutes)
    slow = waited.by_minute(0.99)
    latency.plot(hours[: len(slow)], slow, color="tab:red", label="99th percentile of a minute")
    latency.set_yscale("symlog", linthresh=1.0)
    latency.set_yticks(LEVELS, [f"{level} s" for level in LEVELS])
    latency.set_title("waiting for a slot in a batch (0: less than a second)")
    latency.set_xlabel("hour")
    _save(figure, file, (load, workers, latency))


def plot_flash(file: Path, day: Day, needed: Floats) -> None:
    """Plot the flash crowd, by the second."""
    start = len(day.came) * 10 // 24
    part = slice(max(0, start - 120), start + 1680)
    figure, (load, workers) = _panels(2)
    seconds = np.arange(part.start, min(part.stop, len(day.came)), dtype=float) - start
    load.plot(seconds, day.came[part], label="requests per second", color="tab:blue")
    load.plot(seconds, day.waiting[part] / 10, label="waiting / 10", color="tab:red")
    load.set_title("a flash crowd")
    _workers(workers, seconds, day, needed, lambda values: values[part])
    workers.set_xlabel("seconds")
    _save(figure, file, (load, workers))


def plot_choices(file: Path, choices: Sequence[tuple[str, float, float]]) -> None:
    """Plot the cost of each setting (worker hours over the oracle's) against its latency (share of
    requests that waited longer than a second)."""
    figure, (axes,) = _panels(1)
    for number, (name, cost, share) in enumerate(choices, start=1):
        point = min(cost, MAX_COST), max(share * 100, 0.01)
        axes.scatter(*point, s=14, label=f"{number} {name} ({cost:.2f}, {share:.2%})")
        axes.annotate(f"{number}", point, fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.set_yscale("log")
    axes.legend(fontsize=6, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_xlabel("worker hours over those of a perfect oracle")
    axes.set_ylabel("% of requests that wait longer than 1 s")
    _save(figure, file, ())


def _panels(count: int) -> tuple[Figure, Sequence[Any]]:
    figure = Figure(figsize=(9, 2.6 * count if count > 1 else 5), layout="constrained")
    axes: Sequence[Any] = list(figure.subplots(count, 1, squeeze=False)[:, 0])
    return figure, axes


def _workers(
    axes: Any, at: Floats, day: Day, needed: Floats, part: Callable[[Floats], Floats]
) -> None:
    axes.plot(at, part(day.size), label="target", color="tab:orange")
    axes.plot(at, part(day.ready), label="ready", color="tab:green")
    axes.plot(at, part(needed), label="perfect oracle", color="black", linewidth=0.8)
    axes.set_title("workers")


def _minutes(values: Floats) -> Floats:
    full = len(values) // 60 * 60
    means: Floats = values[:full].reshape(-1, 60).mean(axis=1)
    return means


def _save(figure: Figure, file: Path, with_legend: Sequence[Any]) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    for axes in with_legend:
        axes.legend(fontsize=8, loc="upper left")
        axes.set_ylim(bottom=0)
    figure.savefig(file, dpi=90)
