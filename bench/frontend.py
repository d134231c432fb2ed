"""Measure the streamed tokens/s of one frontend process and their CPU time, without a model.

Starts a pool of the fake engine with one frontend and one worker, keeps a number of streams open,
and counts the events with text and the CPU time of each process. All of a frontend's work is in it:
HTTP, ZeroMQ, detokenizing, server-sent events. `--than` names another checkout (of either layout,
see bench/load/layouts.py): both are measured in turn, and the medians of the rounds' ratios are
printed; only such ratios compare. With `--long-chat TOKENS` the requests are chats of so many
tokens, and their next turns: see bench/load/long_chat.py.

Usage: python -m bench.frontend [--than FOLDER] [--streams 64] [--step-s 0,0.002]
       python -m bench.frontend --long-chat 70000 [--messages 35] [--than FOLDER]
"""

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load import long_chat
from bench.load.client import Target, first_model, measure
from bench.load.fake_pools import Pool, cpu_s, pool
from bench.load.http import Server
from bench.load.layouts import ROOT
from bench.load.prompts import Mix, session
from bench.load.records import Record, Summary, ratio, summarize
from bench.load.schedule import Load, run

COLUMNS = ("build", "step, ms", "events/s", "tokens/s", "µs/event", "TPOT, ms")
CORES = ("frontend", "worker", "client")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the load. frontend_s, worker_s: CPU seconds of the processes."""

    summary: Summary
    frontend_s: float
    worker_s: float

    @property
    def us_per_event(self) -> float:
        """Microseconds of the frontend's CPU time per event with text."""
        return self.frontend_s / max(self.summary.content_events, 1) * 1e6


async def run_load(pool: Pool, options: argparse.Namespace, number: int) -> Run:
    """Run the load once, after a short warm-up. number: of the round, whose prompts differ."""
    server = Server(pool.url)
    target = Target(server, await first_model(server), options.endpoint)
    mix = Mix("fixed", prompt_tokens=64, output_tokens=options.output_tokens)

    async def send(first: int, requests: int) -> list[Record]:
        return await run(
            Load(concurrency=options.streams, requests=requests),
            lambda index: session(mix, options.endpoint, first + index),
            lambda planned: measure(target, planned),
        )

    try:
        await send(number * 2_000_000, options.streams)
        before = cpu_s(pool.frontend_pid), cpu_s(pool.worker_pid), time.process_time()
        records = await send(number * 2_000_000 + 1_000_000, options.requests)
        own_s = time.process_time() - before[2]
        frontend_s, worker_s = cpu_s(pool.frontend_pid), cpu_s(pool.worker_pid)
        return Run(summarize(records, own_s), frontend_s - before[0], worker_s - before[1])
    finally:
        await server.close()


def row(name: str, step_s: float, result: Run) -> str:
    """Return the table row of a run."""
    summary = result.summary
    cells = [
        name,
        f"{step_s * 1e3:g}",
        f"{summary.content_events_per_s:.0f}",
        f"{summary.output_tokens_per_s:.0f}",
        f"{result.us_per_event:.1f}",
        f"{summary.tpot_ms.p50:.2f}",
        f"{result.frontend_s / summary.duration_s:.2f}",
        f"{result.worker_s / summary.duration_s:.2f}",
        f"{summary.client_cpu:.2f}",
    ]
    failed = f"  {summary.failed} failed: {list(summary.errors)}" if summary.failed else ""
    return "".join(f"{cell:>10}" for cell in cells) + failed


def show_ratios(step_s: float, this: Sequence[Run], other: Sequence[Run]) -> None:
    """Print the medians of the rounds' ratios of this checkout to the other one."""
    rounds = list(zip(this, other, strict=True))
    ratios = {
        "events/s": [
            ratio(a.summary.content_events_per_s, b.summary.content_events_per_s) for a, b in rounds
        ],
        "µs/event": [ratio(a.us_per_event, b.us_per_event) for a, b in rounds],
        "TPOT": [ratio(a.summary.tpot_ms.p50, b.summary.tpot_ms.p50) for a, b in rounds],
    }
    shown = [
        f"{name} {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        for name, values in ratios.items()
    ]
    print(f"this over that, step {step_s * 1e3:g} ms: {', '.join(shown)}", flush=True)


def main() -> None:
    """Measure the checkouts in turn, for each step time."""
    parser = argparse.ArgumentParser(prog="bench.frontend")
    parser.add_argument("--than", type=Path, help="another checkout, to compare with")
    parser.add_argument("--model", help="the model whose tokenizer and chat template are used")
    parser.add_argument("--endpoint", choices=["chat", "completions"], default="chat")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--step-s", default="0,0.002")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--long-chat", type=int, metavar="TOKENS", help="measure chats of this length"
    )
    parser.add_argument("--messages", type=int, default=35, help="of a long chat")
    options = parser.parse_args()
    checkouts = {"this": ROOT} | ({"that": options.than} if options.than else {})
    if options.long_chat:
        shape = long_chat.Shape(options.long_chat, options.messages)
        long_chat.compare(checkouts, options.model, shape, options.rounds)
        return
    print("".join(f"{cell:>10}" for cell in COLUMNS + CORES), "(in cores)", flush=True)
    for step_s in map(float, options.step_s.split(",")):
        with contextlib.ExitStack() as stack:
            pools = {
                name: stack.enter_context(pool(checkout, options.model, step_s))
                for name, checkout in checkouts.items()
            }
            results: dict[str, list[Run]] = {name: [] for name in pools}
            for number in range(options.rounds):
                order = list(pools) if number % 2 == 0 else list(reversed(pools))
                for name in order:
                    result = asyncio.run(run_load(pools[name], options, number))
                    results[name].append(result)
                    print(row(name, step_s, result), flush=True)
            if options.than:
                show_ratios(step_s, results["this"], results["that"])


if __name__ == "__main__":
    main()
