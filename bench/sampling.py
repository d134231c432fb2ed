"""Measure sampling on a CPU: the compiled kernel against torch's operations.

Both sample the same rows in turn; a line gives the median time of each and the median of the
rounds' ratios. Rows are random (a nucleus of most of the vocabulary) or peaked (a nucleus of a few
tokens).

Usage: python -m bench.sampling [--rows 1 16 64] [--threads 2]
"""

import argparse
import os
import statistics
import time
from itertools import product
from unittest import mock

import torch

from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.native.draw import can_draw
from headrace.workers.sampling import sampler
from headrace.workers.sequence.sequence import Sequence

SETTINGS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.7": {"temperature": 0.7},
    "top_k 50": {"top_k": 50},
    "top_p 0.95": {"top_p": 0.95},
    "min_p 0.05": {"min_p": 0.05},
    "top_k 50, top_p 0.95": {"top_k": 50, "top_p": 0.95},
}
SPREADS = {"random": 1.0, "peaked": 6.0}


def make_sequences(count: int, settings: dict[str, float]) -> list[Sequence]:
    """Return sequences with these sampling parameters, one for each row."""
    params = {"temperature": 1.0, **settings}
    samplings = [SamplingParams(seed, 99, **params) for seed in range(count)]  # type: ignore[arg-type]
    return [Sequence.of(Generate("r", (1,), sampling), 0, 0.0) for sampling in samplings]


def seconds_of(logits: torch.Tensor, sequences: list[Sequence], *, compiled: bool) -> float:
    """Return the seconds of sampling all rows once."""
    with mock.patch.object(sampler, "can_draw", can_draw if compiled else _cannot_draw):
        start = time.perf_counter()
        sampler.sample(logits, sequences)
        return time.perf_counter() - start


def _cannot_draw(device: torch.device) -> bool:
    return False


def pair_of(
    logits: torch.Tensor, sequences: list[Sequence], kernel_first: bool
) -> tuple[float, float]:
    """Return the seconds of the kernel and of torch's operations."""
    order = (True, False) if kernel_first else (False, True)
    times = {compiled: seconds_of(logits, sequences, compiled=compiled) for compiled in order}
    return times[True], times[False]


def main() -> None:
    """Print a line for each setting and kind of row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not can_draw(torch.device("cpu")):
        parser.error("the kernels were not built, or the processor lacks AVX-512")
    generator = torch.Generator().manual_seed(0)
    for rows, (kind, spread) in product(args.rows, SPREADS.items()):
        logits = torch.randn((rows, args.vocabulary), generator=generator) * spread
        for name, settings in SETTINGS.items():
            sequences = make_sequences(rows, settings)
            seconds_of(logits, sequences, compiled=True)
            pairs = [pair_of(logits, sequences, number % 2 == 0) for number in range(args.rounds)]
            ours, theirs = (statistics.median(times) * 1000 for times in zip(*pairs, strict=True))
            ratio = statistics.median(slow / fast for fast, slow in pairs)
            print(
                f"{rows:3} {kind} rows, {name}: kernel {ours:.2f} ms, torch {theirs:.2f} ms, "
                f"{ratio:.1f} x",
                flush=True,
            )


if __name__ == "__main__":
    main()
