"""Simulate a day of autoscaling in a minute: the coordinator's own policy on thousands of workers.

The trace is generated from a seed or read from a file (a line for each second: the requests that
arrived in it). Each setting is compared with a perfect oracle, which knows what arrives, starts
workers at once and gives each as many requests as the default target, and with a fixed size.

    python -m bench.autoscale_sim [--plots docs/autoscaling] [--trace FILE] [--peak 6000]

Plots need the extra "bench" (matplotlib). Nothing else is started or needed.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from bench.scaling import trace
from bench.scaling.pool import Day, Floats, play
from bench.scaling.results import Waits, count_changes, oracle, waits
from bench.scaling.settings import DEFAULT, SETTINGS, SMALL, Setting
from headrace.coordinator.autoscaling import autoscale_policy as autoscaling
from headrace.protocol.autoscaling import TARGET_SHARE, Autoscaling

# max_workers over the oracle's peak: the limits must not constrain the policy.
HEADROOM = 2.5
HEADER = (
    "| setting | worker hours | over the oracle's | waiting: p50 | p99 | > 1 s | > 10 s"
    " | changes | turns |\n|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Run:
    """The day of a setting. needed: the oracle's workers in each second."""

    setting: Setting
    day: Day
    waited: Waits
    needed: Floats

    @property
    def cost(self) -> float:
        """The worker hours over the oracle's."""
        return float(self.day.paid.sum() / self.needed.sum())

    def row(self) -> str:
        """Return the row of the table."""
        changes, reversals = count_changes(self.day.size)
        cells = (
            self.setting.name,
            f"{self.day.paid.sum() / 3600:,.0f}",
            f"{self.cost:.2f}",
            f"{self.waited.quantile(0.5):.0f} s",
            f"{self.waited.quantile(0.99):.0f} s",
            f"{self.waited.share_over(1):.2%}",
            f"{self.waited.share_over(10):.2%}",
            f"{changes}",
            f"{reversals}",
        )
        return f"| {' | '.join(cells)} |"


def simulate(setting: Setting, expected: Floats, came: Floats, seed: int) -> Run:
    """Simulate one setting on one trace."""
    engine = setting.engine()
    needed = oracle(expected, engine, TARGET_SHARE)
    first = int(needed[0])
    with mock.patch.dict(vars(autoscaling), setting.constants):
        policy = None
        if setting.fixed is None:
            options = Autoscaling(
                min_workers=1,
                max_workers=max(int(HEADROOM * needed.max()), 4),
                target_requests=setting.target * engine.slots,
                up_window_s=setting.up_s,
                down_window_s=setting.down_s,
            )
            policy = autoscaling.Policy(options)
        else:
            first = int(np.ceil(np.quantile(needed, setting.fixed)))
        seen = setting.queue_share, setting.counts_running
        day = play(came, engine, policy, first, *seen, seed)
    return Run(setting, day, waits(day), needed)


def compare(settings: Sequence[Setting], expected: Floats, came: Floats, seed: int) -> list[Run]:
    """Simulate the settings and print a row for each."""
    needed = oracle(expected, DEFAULT.engine(), TARGET_SHARE)
    print(
        f"{came.sum():,.0f} requests in {len(came):,} s, at most {came.max():,.0f} in one;"
        f" the oracle has {needed.min():,.0f} to {needed.max():,.0f} workers,"
        f" {needed.sum() / 3600:,.0f} hours\n\n{HEADER}"
    )
    runs = []
    for setting in settings:
        runs.append(simulate(setting, expected, came, seed))
        print(runs[-1].row(), flush=True)
    print()
    return runs


def draw(folder: Path, runs: Sequence[Run], expected: Floats) -> None:
    """Plot the pictures of docs/autoscaling.md."""
    from bench.scaling import plots  # needs matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    first = runs[0]
    plots.plot_day(folder / "day.png", first.day, expected, first.needed, first.waited)
    plots.plot_flash(folder / "flash.png", first.day, first.needed)
    choices = [(run.setting.name, run.cost, run.waited.share_over(1)) for run in runs]
    plots.plot_choices(folder / "choices.png", choices)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the settings on a large pool, and some of them on a small one."""
    parser = argparse.ArgumentParser(prog="bench.autoscale_sim")
    parser.add_argument("--peak", type=float, default=6000.0, help="requests per second at noon")
    parser.add_argument("--small-peak", type=float, default=20.0, help="of a small pool")
    parser.add_argument("--seconds", type=int, default=trace.DAY_S, help="of the day")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", type=Path, help="file with the requests of each second")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write plots there")
    args = parser.parse_args(argv)
    started = time.perf_counter()
    if args.trace:
        expected, came = trace.read(args.trace)
    else:
        expected, came = trace.generate(args.peak, args.seconds, args.seed)
    runs = compare(SETTINGS, expected, came, args.seed)
    if args.plots:
        draw(args.plots, runs, expected)
    if not args.trace and args.small_peak:
        compare(SMALL, *trace.generate(args.small_peak, args.seconds, args.seed), args.seed)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
