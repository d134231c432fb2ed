"""Compare the roofline measurements of two checkouts.

Each run is a process of its own, with its checkout's path first, so that either checkout's code is
measured by its own benchmark. The checkouts take turns; a round is one run of each.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.load.layouts import ROOT, environment, layout_of

Ratios = dict[str, float]  # by the outcome's name, in the outcome's unit


def compare_checkouts(other: Path, flags: Sequence[str], runs: int) -> list[dict[str, Any]]:
    """Run bench.roofline in both checkouts in turn; print and return the ratios of their outcomes.

    flags: of bench.roofline. Raises RuntimeError if a run fails.
    """
    layout_of(other)
    this_runs: list[Ratios] = []
    other_runs: list[Ratios] = []
    for number in range(runs):
        sides = [(ROOT, this_runs), (other, other_runs)]
        for checkout, results in sides if number % 2 == 0 else reversed(sides):
            results.append(run_roofline(checkout, flags))
    compared = compare_runs(this_runs, other_runs)
    for entry in compared:
        print(
            f"{entry['name']:<32} this {entry['this']:8.3f}  that {entry['that']:8.3f}"
            f"  this/that {entry['ratio']:.3f}"
            f" ({min(entry['ratios']):.3f} to {max(entry['ratios']):.3f})",
            flush=True,
        )
    return compared


def compare_runs(this_runs: Sequence[Ratios], other_runs: Sequence[Ratios]) -> list[dict[str, Any]]:
    """Return the medians and the median of the rounds' ratios for each common outcome."""
    compared: list[dict[str, Any]] = []
    for name in this_runs[0]:
        if name not in other_runs[0]:
            continue
        this, that = ([run[name] for run in runs] for runs in (this_runs, other_runs))
        ratios = [a / b for a, b in zip(this, that, strict=True)]
        compared.append(
            {
                "name": name,
                "this": statistics.median(this),
                "that": statistics.median(that),
                "ratio": statistics.median(ratios),
                "ratios": ratios,
            }
        )
    return compared


def run_roofline(checkout: Path, flags: Sequence[str]) -> Ratios:
    """Run a checkout's bench.roofline and return its outcomes. Raises RuntimeError if it fails."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "bench.roofline", *flags, "--json", file.name]
        result = subprocess.run(
            command, cwd=checkout, env=environment(checkout), capture_output=True, text=True
        )
        if result.returncode != 0:
            raise RuntimeError(f"bench.roofline failed in {checkout}:\n{result.stderr}")
        outcomes = json.loads(Path(file.name).read_text())["outcomes"]
    return {outcome["name"]: outcome["ratio"] for outcome in outcomes}
