"""Measure how long a worker takes to sleep, to wake up and to answer while asleep; and its memory.

In each round the K/V cache is filled and the pool sleeps and wakes up, at both levels in turn, and
a request is sent while it is asleep. Then the pool scales to two workers and back.

    HF_HUB_OFFLINE=1 python -m bench.sleeping [--rounds 5] [--model FOLDER]
"""

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable

import httpx
import psutil

from bench.load.fake_pools import pool
from bench.load.layouts import ROOT

FLAGS = ["--engine", "torch", "--kv-cache-memory-bytes", "512MiB", "--enable-admin"]
CACHED_PROMPTS = 12
Measurements = defaultdict[str, list[float]]


class SleepingPool:
    """A pool of one worker, and the measurements of it. seconds, mib: by name."""

    def __init__(self, client: httpx.AsyncClient, worker: psutil.Process) -> None:
        self._client, self._worker = client, worker
        self.seconds: Measurements = defaultdict(list)
        self.mib: Measurements = defaultdict(list)

    async def complete(self, prompt: str, tokens: int = 1) -> None:
        body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
        (await self._client.post("/v1/completions", json=body)).raise_for_status()

    async def post(self, path: str, body: object = None) -> None:
        """Make an admin call."""
        (await self._client.post(path, json=body)).raise_for_status()

    async def fill_cache(self, round_number: int) -> None:
        """Send prompts of which no two share a prefix."""
        for number in range(CACHED_PROMPTS):
            await self.complete(f"{round_number} {number} " + "and then it was said that " * 120)

    async def timed(self, name: str, work: Awaitable[None]) -> None:
        """Await the work and keep its seconds."""
        started = time.monotonic()
        await work
        self.seconds[name].append(time.monotonic() - started)

    def weigh(self, name: str) -> None:
        """Keep the resident memory of the worker."""
        self.mib[name].append(self._worker.memory_info().rss / 2**20)

    async def round(self, number: int) -> None:
        """Measure everything once."""
        for level in (1, 2):
            await self.fill_cache(number)
            self.weigh("awake, with a cache")
            await self.timed(f"sleep, level {level}", self.post(f"/sleep?level={level}"))
            self.weigh(f"asleep, level {level}")
            await self.timed(f"wake, level {level}", self.post("/wake_up"))
            await self.post(f"/sleep?level={level}")
            await self.timed(f"a request while asleep, level {level}", self.complete("Hello"))
        await self.timed("a request while awake", self.complete("Hello"))
        for size in (2, 1):
            body = {"new_data_parallel_size": size}
            await self.timed(f"scale to {size}", self.post("/scale_elastic_ep", body))


def show(unit: str, measurements: Measurements, digits: int) -> None:
    """Print the median and the range of each measurement."""
    for name, values in measurements.items():
        median = statistics.median(values)
        spread = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
        print(f"{unit}  {name:<32}{median:>10.{digits}f}  ({spread})")


async def main() -> None:
    """Run the rounds and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", help="as of headrace serve (the default model)")
    args = parser.parse_args()
    with pool(ROOT, args.model, 0.0, FLAGS) as served:
        async with httpx.AsyncClient(base_url=served.url, timeout=300) as client:
            measured = SleepingPool(client, psutil.Process(served.worker_pid))
            await measured.complete("Hello")
            measured.weigh("awake, at first")
            for number in range(args.rounds):
                await measured.round(number)
    show("s", measured.seconds, 2)
    show("MiB", measured.mib, 0)


if __name__ == "__main__":
    asyncio.run(main())
