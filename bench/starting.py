"""Measure how long workers take to start, by a fork server and cold, and their memory.

Two idle pools run at once; in each round one worker of each is killed, first of the one and then of
the other, so that other load on the machine affects both alike.

    HF_HUB_OFFLINE=1 python -m bench.starting [--rounds 5] [--workers 2] [--model FOLDER]
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.layouts import CURRENT, ROOT, Layout
from bench.load.fake_pools import pool
from bench.load.http import Server
from bench.recovery import until_ready

FLAGS = ["--engine", "torch", "--frontends", "1", "--kv-cache-memory-bytes", "256MiB"]
VARIANTS: dict[str, list[str]] = {"warm": [], "cold": ["--no-warm-starts"]}
COLUMNS = ("process", "RSS", "PSS", "private")


@dataclass
class MeasuredPool:
    """A pool that starts its workers in one of the ways to compare. start_s: of the whole pool."""

    name: str
    start_s: float
    server: Server
    launcher: psutil.Process
    layout: Layout = CURRENT

    def processes(self, module: str) -> list[psutil.Process]:
        """Return the launcher's children that run a module."""
        return [child for child in self.launcher.children() if module in child.cmdline()]

    async def replace_worker(self, workers: int) -> float:
        """Kill a worker; return the seconds until all are ready again."""
        os.kill(self.processes(self.layout.worker)[0].pid, signal.SIGKILL)
        started = time.monotonic()
        await until_ready(self.server, workers - 1)
        await until_ready(self.server, workers)
        return time.monotonic() - started


def memory_mib(pid: int) -> list[int]:
    """Return RSS, PSS (shared pages are divided among the processes) and private memory, in MiB."""
    found = dict(re.findall(r"(\w+): +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text()))
    private = int(found["Private_Dirty"]) + int(found["Private_Clean"])
    return [kib // 1024 for kib in (int(found["Rss"]), int(found["Pss"]), private)]


def show_memory(measured: MeasuredPool) -> None:
    """Print a table of the memory of a pool's fork server and workers."""
    print("".join(f"{cell:>18}" for cell in (f"{measured.name}, MiB", *COLUMNS[1:])))
    total = 0
    for module in (CURRENT.fork_server, CURRENT.worker):
        for process in measured.processes(module):
            cells = memory_mib(process.pid)
            total += cells[1]
            print("".join(f"{cell:>18}" for cell in (module, *cells)))
    print(f"{'together':>18}{'':>18}{total:>18}", flush=True)


async def main() -> None:
    """Replace a worker of each pool in turn and print the times, then the memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", help="as of headrace serve (the default model)")
    args = parser.parse_args()
    flags = [*FLAGS, "--workers", str(args.workers)]
    with contextlib.ExitStack() as stack:
        pools: list[MeasuredPool] = []
        for name, own in VARIANTS.items():
            started = time.monotonic()
            served = stack.enter_context(pool(ROOT, args.model, 0.0, [*flags, *own]))
            launcher = psutil.Process(psutil.Process(served.worker_pid).ppid())
            start_s = time.monotonic() - started
            pools.append(MeasuredPool(name, start_s, Server(served.url, {}), launcher))
            await until_ready(pools[-1].server, args.workers)
            print(f"{name}: the pool is ready after {start_s:.1f} s", flush=True)
        seconds: dict[str, list[float]] = {measured.name: [] for measured in pools}
        for _ in range(args.rounds):
            for measured in pools:
                seconds[measured.name].append(await measured.replace_worker(args.workers))
            warm, cold = seconds["warm"][-1], seconds["cold"][-1]
            print(f"warm {warm:.1f} s, cold {cold:.1f} s: {warm / cold:.2f}", flush=True)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        print(f"medians: {medians['warm']:.1f} and {medians['cold']:.1f} s")
        for measured in pools:
            show_memory(measured)
            await measured.server.close()


if __name__ == "__main__":
    asyncio.run(main())
