"""Measure how long pools and workers take to start, and the memory of workers.

With --pools, a pool is started and stopped in turn with nothing in the cache of programs, and with
its program there; and of another checkout, if one is given. The CPU time is that of all processes
from start to end: it hardly depends on what else the machine does, where the seconds do.

Without, two idle pools run at once, one with fork servers and one without; in each round one worker
of each is killed, first of the one and then of the other, so that other load on the machine affects
both alike.

    HF_HUB_OFFLINE=1 python -m bench.starting [--rounds 5] [--workers 2] [--model FOLDER]
    HF_HUB_OFFLINE=1 python -m bench.starting --pools [--against CHECKOUT] [--rounds 5]
"""

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.load.fake_pools import pool
from bench.load.http import Server
from bench.load.layouts import CURRENT, ROOT, Layout
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


@dataclass
class Starts:
    """Starts of one kind of pool. forgets: whether each starts without its program in the cache."""

    name: str
    checkout: Path
    cache: Path
    forgets: bool = False
    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def start(self, model: str | None, workers: int) -> None:
        """Start a pool, wait until it is ready, and stop it."""
        if self.forgets:
            shutil.rmtree(self.cache / "programs", ignore_errors=True)
        os.environ["HEADRACE_CACHE"] = str(self.cache)
        flags = ["--engine", "torch", "--frontends", "2", "--workers", str(workers)]
        started, before = time.monotonic(), os.times()
        with pool(self.checkout, model, 0.0, flags):
            self.seconds.append(time.monotonic() - started)
        after = os.times()
        self.cpu_s.append(
            after.children_user + after.children_system
            - before.children_user - before.children_system
        )  # fmt: skip


def compare_pools(args: argparse.Namespace) -> None:
    """Start the kinds of pools in turn and print their times, and the ratios to the first kind."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        kinds = [
            Starts("no program", ROOT, Path(folder, "own"), forgets=True),
            Starts("its program", ROOT, Path(folder, "own")),
        ]
        if args.against is not None:
            kinds.insert(0, Starts("against", args.against.resolve(), Path(folder, "other")))
        for kind in (kinds[0], kinds[-1]):  # prepares the model
            kind.start(args.model, args.workers)
            kind.seconds.clear()
            kind.cpu_s.clear()
        for _ in range(args.rounds):
            for kind in kinds:
                kind.start(args.model, args.workers)
                load = os.getloadavg()[0]
                print(f"{kind.name}: {kind.seconds[-1]:.1f} s, CPU {kind.cpu_s[-1]:.1f} s, "
                      f"load {load:.1f}", flush=True)  # fmt: skip
    for kind in kinds:
        seconds, cpu_s = (statistics.median(values) for values in (kind.seconds, kind.cpu_s))
        base = kinds[0]
        ratios = [
            statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
            for ours, theirs in ((kind.seconds, base.seconds), (kind.cpu_s, base.cpu_s))
        ]
        print(f"{kind.name}: median {seconds:.1f} s ({ratios[0]:.2f}), "
              f"CPU {cpu_s:.1f} s ({ratios[1]:.2f})")  # fmt: skip


def main() -> None:
    """Run the comparison that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--model", help="as of headrace serve (the default model)")
    parser.add_argument("--pools", action="store_true", help="compare starts of whole pools")
    parser.add_argument("--against", type=Path, help="another checkout, for --pools")
    args = parser.parse_args()
    if args.pools:
        args.workers = args.workers or 1
        compare_pools(args)
    else:
        args.workers = args.workers or 2
        asyncio.run(compare_workers(args))


async def compare_workers(args: argparse.Namespace) -> None:
    """Replace a worker of each pool in turn and print the times, then the memory."""
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
    main()
