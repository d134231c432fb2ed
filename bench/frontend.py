"""Measure the streamed tokens/s of one frontend process and their CPU time, without a model.

Starts a pool of the fake engine with one frontend and one worker, keeps a number of streams open,
and counts the events with text and the CPU time of each process. All of a frontend's work is in it:
HTTP, ZeroMQ, detokenizing, server-sent events. `--than` names another checkout (of either layout,
see bench/layouts.py): both are measured in turn, and the medians of the rounds' ratios are printed;
only such ratios compare.

Usage: python -m bench.frontend [--than FOLDER] [--streams 64] [--step-s 0,0.002]
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.layouts import ROOT, environment, layout_of
from bench.load.client import Target, first_model, measure
from bench.load.http import Server
from bench.load.prompts import Mix, session
from bench.load.records import Record, Summary, ratio, summarize
from bench.load.schedule import Load, run

START_TIMEOUT_S = 60.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
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


@dataclass(frozen=True, slots=True)
class Pool:
    """A running pool of one frontend and at least one worker."""

    url: str
    frontend_pid: int
    worker_pid: int


@contextlib.contextmanager
def pool(
    checkout: Path, model: str | None, step_s: float, flags: Sequence[str] = ()
) -> Iterator[Pool]:
    """Run a pool of a checkout's code. flags: more flags of `headrace serve`."""
    layout = layout_of(checkout)
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        command = [sys.executable, "-m", layout.command, "serve"]
        command += ["--model", model] if model else []
        command += ["--engine", "fake", "--fake-step-s", str(step_s), "--frontends", "1"]
        command += ["--workers", "1", "--port", "0", "--run-dir", f"{folder}/run", *flags]
        log = Path(folder, "log")
        with log.open("w") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment(checkout),
                cwd=checkout,
            )
        try:
            url = _wait_until_ready(process, log)
            yield Pool(
                url, _child(process.pid, layout.frontend), _child(process.pid, layout.worker)
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Return the pool's URL once it serves. Raises SystemExit with its log if it does not start."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"^Headrace serves .* at (\S+)$", log.read_text(), re.MULTILINE)
        if found and _is_ready(found[1]):
            return found[1]
        time.sleep(0.05)
    raise SystemExit(f"the pool did not start:\n{log.read_text()}")


def _is_ready(url: str) -> bool:
    """Return whether the frontend knows of a worker that is ready."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health"):
        return True
    return False


def _child(parent: int, module: str) -> int:
    """Return the process id of the first child that runs a module."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            is_child = stat.read_text().rpartition(")")[2].split()[1] == str(parent)
            if is_child and module in stat.with_name("cmdline").read_text():
                return int(stat.parent.name)
    raise SystemExit(f"the pool has no process that runs {module}")


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


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
    options = parser.parse_args()
    checkouts = {"this": ROOT} | ({"that": options.than} if options.than else {})
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
