"""Measure the CPU time that a rejection costs a frontend and a worker while the pool is full.

Starts a pool of the fake engine with capacity for three requests, its queue included, keeps it
full, and sends requests; the CPU time of the pool without them is measured before and subtracted.
`--than` names another checkout (of either layout, see bench/load/layouts.py): both are measured in
turn, and the medians of the rounds' ratios are printed.

    python -m bench.refusals [--than FOLDER] [--requests 800]
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load.client import Target, first_model, measure
from bench.load.fake_pools import Pool, cpu_s, pool
from bench.load.http import Server
from bench.load.layouts import ROOT
from bench.load.prompts import Mix, Planned, session
from bench.load.records import Spread, ratio, spread

FLAGS = ["--max-num-seqs", "2", "--max-queue-requests", "1"]
STEP_S = 0.05
IDLE_S = 2.0
PROCESSES = ("the frontend", "the worker")


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a rejection. cpu_s: of each of PROCESSES. latency_ms: of the response."""

    rejected: int
    cpu_s: Sequence[float]
    latency_ms: Spread

    def line(self) -> str:
        """Return the cost as text."""
        costs = [
            f"{seconds * 1e3:.2f} ms of {name}"
            for seconds, name in zip(self.cpu_s, PROCESSES, strict=True)
        ]
        latency = f"p50 {self.latency_ms.p50:.1f} p99 {self.latency_ms.p99:.1f} ms"
        return f"{self.rejected} rejected, {', '.join(costs)} each; {latency}"


def planned(index: int, output_tokens: int) -> Planned:
    """Return the request of a number."""
    mix = Mix(kind="fixed", prompt_tokens=60, output_tokens=output_tokens)
    return session(mix, "completions", index)[0]


async def measure_cost(served: Pool, requests: int) -> Cost:
    """Fill the pool and return what one rejection costs."""
    server = Server(served.url)
    target = Target(server, await first_model(server), "completions")
    running = [asyncio.create_task(measure(target, planned(index, 2000))) for index in range(3)]
    await asyncio.sleep(1.0)
    pids = served.frontend_pid, served.worker_pid
    idle = [cpu_s(pid) for pid in pids]
    await asyncio.sleep(IDLE_S)
    idle_shares = [(cpu_s(pid) - was) / IDLE_S for pid, was in zip(pids, idle, strict=True)]
    before, started = [cpu_s(pid) for pid in pids], time.monotonic()
    records = [await measure(target, planned(100 + index, 60)) for index in range(requests)]
    wall_s = time.monotonic() - started
    used = [
        cpu_s(pid) - was - share * wall_s
        for pid, was, share in zip(pids, before, idle_shares, strict=True)
    ]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await server.close()
    return Cost(
        rejected=sum("HTTP 429" in record.error for record in records),
        cpu_s=[seconds / requests for seconds in used],
        latency_ms=spread([record.ended_s - record.started_s for record in records]),
    )


def show_ratios(this: Sequence[Cost], other: Sequence[Cost]) -> None:
    """Print the medians of the rounds' ratios of this checkout to the other one."""
    rounds = list(zip(this, other, strict=True))
    ratios = {
        f"CPU time of {name}": [ratio(a.cpu_s[index], b.cpu_s[index]) for a, b in rounds]
        for index, name in enumerate(PROCESSES)
    }
    ratios["latency p50"] = [ratio(a.latency_ms.p50, b.latency_ms.p50) for a, b in rounds]
    shown = [f"{name} {statistics.median(values):.3f}" for name, values in ratios.items()]
    print(f"this over that: {', '.join(shown)}", flush=True)


def main() -> None:
    """Measure the checkouts in turn."""
    parser = argparse.ArgumentParser(prog="bench.refusals")
    parser.add_argument("--than", type=Path, help="another checkout, to compare with")
    parser.add_argument("--model", help="the model whose tokenizer is used")
    parser.add_argument("--requests", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    checkouts = {"this": ROOT} | ({"that": args.than} if args.than else {})
    costs: dict[str, list[Cost]] = {name: [] for name in checkouts}
    for _ in range(args.rounds):
        for name, checkout in checkouts.items():
            with pool(checkout, args.model, STEP_S, FLAGS) as served:
                costs[name].append(asyncio.run(measure_cost(served, args.requests)))
                print(f"{name}: {costs[name][-1].line()}", flush=True)
    if args.than:
        show_ratios(costs["this"], costs["that"])


if __name__ == "__main__":
    main()
