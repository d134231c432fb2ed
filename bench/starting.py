"""How long a worker takes to be ready, forked by a template and started cold, and its memory.

Two pools run at once and have nothing to do; in each round one worker of each is killed, first of
the one and then of the other, so that what else the machine does strikes both alike.

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

from bench.frontend import ROOT, pool
from bench.load.http import Server
from bench.recovery import until_ready

FLAGS = ["--engine", "torch", "--frontends", "1", "--kv-cache-memory-bytes", "256MiB"]
FORMS = {"warm": [], "cold": ["--no-warm-starts"]}
HEAD = ("process", "RSS", "PSS", "private")


@dataclass
class Form:
    """A pool that starts its workers in one of the two ways."""

    name: str
    start_s: float
    server: Server
    launcher: psutil.Process

    def processes(self, module: str) -> list[psutil.Process]:
        return [each for each in self.launcher.children() if module in each.cmdline()]

    async def replace_worker(self, workers: int) -> float:
        """Seconds from the death of one until all are ready again."""
        os.kill(self.processes("headrace.workers.main")[0].pid, signal.SIGKILL)
        begun = time.monotonic()
        await until_ready(self.server, workers - 1)
        await until_ready(self.server, workers)
        return time.monotonic() - begun


def memory_mib(pid: int) -> list[int]:
    """RSS, PSS (what is shared is divided among those who share it), and what is private."""
    found = dict(re.findall(r"(\w+): +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text()))
    private = int(found["Private_Dirty"]) + int(found["Private_Clean"])
    return [each // 1024 for each in (int(found["Rss"]), int(found["Pss"]), private)]


def show_memory(form: Form) -> None:
    print("".join(f"{cell:>18}" for cell in (f"{form.name}, MiB", *HEAD[1:])))
    total = 0
    for module in ("headrace.workers.fork_server", "headrace.workers.main"):
        for process in form.processes(module):
            cells = memory_mib(process.pid)
            total += cells[1]
            print("".join(f"{cell:>18}" for cell in (module, *cells)))
    print(f"{'together':>18}{'':>18}{total:>18}", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", help="the default one unless given")
    args = parser.parse_args()
    flags = [*FLAGS, "--workers", str(args.workers)]
    with contextlib.ExitStack() as stack:
        forms = []
        for name, own in FORMS.items():
            begun = time.monotonic()
            served = stack.enter_context(pool(ROOT, args.model, 0.0, [*flags, *own]))
            launcher = psutil.Process(psutil.Process(served.worker_pid).ppid())
            forms.append(Form(name, time.monotonic() - begun, Server(served.url, {}), launcher))
            await until_ready(forms[-1].server, args.workers)
            print(f"{name}: the pool is ready after {forms[-1].start_s:.1f} s", flush=True)
        taken: dict[str, list[float]] = {form.name: [] for form in forms}
        for _ in range(args.rounds):
            for form in forms:
                taken[form.name].append(await form.replace_worker(args.workers))
            warm, cold = taken["warm"][-1], taken["cold"][-1]
            print(f"warm {warm:.1f} s, cold {cold:.1f} s: {warm / cold:.2f}", flush=True)
        medians = {name: statistics.median(each) for name, each in taken.items()}
        print(f"medians: {medians['warm']:.1f} and {medians['cold']:.1f} s")
        for form in forms:
            show_memory(form)
            await form.server.close()


if __name__ == "__main__":
    asyncio.run(main())
