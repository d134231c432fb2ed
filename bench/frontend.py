"""Streamed tokens a second of one frontend process, and what each costs it, without a model.

Starts a pool of the fake engine with one frontend and one worker, holds a number of streams, and
counts the events with text that come and the CPU time that each process takes for them. All of a
frontend's work is in it: HTTP, ZeroMQ, detokenizing, server-sent events. With two builds (`--than`
names the other one's source folder) they are measured in turn: only such figures compare.

Usage: python -m bench.frontend [--than FOLDER] [--streams 64] [--step-s 0,0.002]
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load.client import Target, first_model, measure
from bench.load.http import Server
from bench.load.prompts import Mix, session
from bench.load.records import Record, Summary, summarize
from bench.load.schedule import Load, run

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 60.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
HEAD = ("build", "step, ms", "events/s", "tokens/s", "µs/event", "TPOT, ms")
CORES = ("frontend", "worker", "client")


@dataclass(frozen=True, slots=True)
class Run:
    """frontend_s, worker_s: CPU seconds of the processes."""

    summary: Summary
    frontend_s: float
    worker_s: float


@dataclass(frozen=True, slots=True)
class Pool:
    url: str
    frontend_pid: int
    worker_pid: int


@contextlib.contextmanager
def pool(
    source: Path, model: str | None, step_s: float, flags: Sequence[str] = ()
) -> Iterator[Pool]:
    """A pool that runs a source folder's code. flags: further ones of headrace serve."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        command = [sys.executable, "-m", "headrace.launcher.command.cli", "serve"]
        command += ["--model", model] if model else []
        command += ["--engine", "fake", "--fake-step-s", str(step_s), "--frontends", "1"]
        command += ["--workers", "1", "--port", "0", "--run-dir", f"{folder}/run", *flags]
        log = Path(folder, "log")
        with log.open("w") as out:
            environment = {**os.environ, "PYTHONPATH": str(source)}
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=source
            )
        try:
            url = _wait(process, log)
            yield Pool(
                url,
                _child(process.pid, "headrace.frontend.main"),
                _child(process.pid, "headrace.workers.main"),
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"^Headrace serves .* at (\S+)$", log.read_text(), re.MULTILINE)
        if found and _is_ready(found[1]):
            return found[1]
        time.sleep(0.05)
    raise SystemExit(f"the pool did not come up:\n{log.read_text()}")


def _is_ready(url: str) -> bool:
    """Whether the frontend knows already that there is a worker."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health"):
        return True
    return False


def _child(parent: int, module: str) -> int:
    """The process id of the first child whose command line names a module."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            is_child = stat.read_text().rpartition(")")[2].split()[1] == str(parent)
            if is_child and module in stat.with_name("cmdline").read_text():
                return int(stat.parent.name)
    raise SystemExit(f"the pool has no process of {module}")


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def load(pool: Pool, options: argparse.Namespace, number: int) -> Run:
    """One run, after a short one that warms the pool up."""
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
    summary = result.summary
    cells = [
        name,
        f"{step_s * 1e3:g}",
        f"{summary.content_events_per_s:.0f}",
        f"{summary.output_tokens_per_s:.0f}",
        f"{result.frontend_s / max(summary.content_events, 1) * 1e6:.1f}",
        f"{summary.tpot_ms.p50:.2f}",
        f"{result.frontend_s / summary.duration_s:.2f}",
        f"{result.worker_s / summary.duration_s:.2f}",
        f"{summary.client_cpu:.2f}",
    ]
    failed = f"  {summary.failed} failed: {list(summary.errors)}" if summary.failed else ""
    return "".join(f"{cell:>10}" for cell in cells) + failed


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.frontend")
    parser.add_argument("--than", type=Path, help="another build's source folder")
    parser.add_argument("--model", help="whose tokenizer and template are used")
    parser.add_argument("--endpoint", choices=["chat", "completions"], default="chat")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--step-s", default="0,0.002")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    builds = {"this": ROOT} | ({"that": options.than} if options.than else {})
    print("".join(f"{cell:>10}" for cell in HEAD + CORES), "(in cores)", flush=True)
    for step_s in map(float, options.step_s.split(",")):
        with contextlib.ExitStack() as stack:
            pools = {
                name: stack.enter_context(pool(source, options.model, step_s))
                for name, source in builds.items()
            }
            for number in range(options.rounds):
                for name, started in pools.items():
                    result = asyncio.run(load(started, options, number))
                    print(row(name, step_s, result), flush=True)


if __name__ == "__main__":
    main()
