"""How long a worker takes to fall asleep, to wake and to answer while it sleeps; and its memory.

In each round the cache is filled, the pool put to sleep and woken, at both levels in turn, and a
request is sent while it sleeps. Then the pool grows to two workers and shrinks again.

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

from bench.frontend import ROOT, pool

FLAGS = ["--engine", "torch", "--kv-cache-memory-bytes", "512MiB", "--enable-admin"]
CACHED_PROMPTS = 12
Measured = defaultdict[str, list[float]]


class Sleeper:
    """A pool of one worker. seconds, mib: what was measured, by what it is."""

    def __init__(self, client: httpx.AsyncClient, worker: psutil.Process) -> None:
        self._client, self._worker = client, worker
        self.seconds: Measured = defaultdict(list)
        self.mib: Measured = defaultdict(list)

    async def ask(self, prompt: str, tokens: int = 1) -> None:
        body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
        (await self._client.post("/v1/completions", json=body)).raise_for_status()

    async def act(self, path: str, body: object = None) -> None:
        (await self._client.post(path, json=body)).raise_for_status()

    async def fill_cache(self, round_number: int) -> None:
        """Prompts none of which begins like another."""
        for number in range(CACHED_PROMPTS):
            await self.ask(f"{round_number} {number} " + "and then it was said that " * 120)

    async def timed(self, what: str, doing: Awaitable[None]) -> None:
        begun = time.monotonic()
        await doing
        self.seconds[what].append(time.monotonic() - begun)

    def weigh(self, what: str) -> None:
        self.mib[what].append(self._worker.memory_info().rss / 2**20)

    async def round(self, number: int) -> None:
        for level in (1, 2):
            await self.fill_cache(number)
            self.weigh("awake, with a cache")
            await self.timed(f"sleep, level {level}", self.act(f"/sleep?level={level}"))
            self.weigh(f"asleep, level {level}")
            await self.timed(f"wake, level {level}", self.act("/wake_up"))
            await self.act(f"/sleep?level={level}")
            await self.timed(f"a request while asleep, level {level}", self.ask("Hello"))
        await self.timed("a request while awake", self.ask("Hello"))
        for size in (2, 1):
            body = {"new_data_parallel_size": size}
            await self.timed(f"scale to {size}", self.act("/scale_elastic_ep", body))


def show(title: str, measured: Measured, digits: int) -> None:
    for what, values in measured.items():
        middle = statistics.median(values)
        spread = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
        print(f"{title}  {what:<32}{middle:>10.{digits}f}  ({spread})")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", help="the default one unless given")
    args = parser.parse_args()
    with pool(ROOT, args.model, 0.0, FLAGS) as served:
        async with httpx.AsyncClient(base_url=served.url, timeout=300) as client:
            sleeper = Sleeper(client, psutil.Process(served.worker_pid))
            await sleeper.ask("Hello")
            sleeper.weigh("awake, at first")
            for number in range(args.rounds):
                await sleeper.round(number)
    show("s", sleeper.seconds, 2)
    show("MiB", sleeper.mib, 0)


if __name__ == "__main__":
    asyncio.run(main())
