"""Measure the recovery from a killed worker: SIGKILL while eight requests stream from two workers.

The longest gap in a stream shows the failover to a client of the killed worker; until two
workers are ready again, the pool serves with one.

    HF_HUB_OFFLINE=1 python -m bench.recovery [--engine fake] [--rounds 5]
"""

import argparse
import asyncio
import json
import os
import signal
import time

import psutil

from bench.load.client import Target, first_model, measure
from bench.load.fake_pools import pool
from bench.load.http import Server
from bench.load.layouts import CURRENT, ROOT
from bench.load.prompts import Mix, session
from bench.load.records import Record

MIX = Mix(kind="fixed", prompt_tokens=60, output_tokens=200)
STREAMS = 8
RUNNING_S = 1.0
POLL_S = 0.02


async def ready_workers(server: Server) -> int:
    """Return how many workers of the first group are ready."""
    async with server.request("GET", "/health?verbose") as response:
        return int(json.loads(await response.read())["groups"][0]["ready"])


async def until_ready(server: Server, count: int) -> None:
    """Wait until exactly so many workers are ready."""
    while await ready_workers(server) != count:  # noqa: ASYNC110 - no event tells it
        await asyncio.sleep(POLL_S)


async def one_round(target: Target, number: int, launcher: psutil.Process) -> tuple[float, float]:
    """Kill a worker; return the longest gap of a stream and the seconds until both are ready."""
    first = number * STREAMS
    plans = [session(MIX, "completions", first + index)[0] for index in range(STREAMS)]
    streams = [asyncio.create_task(measure(target, plan)) for plan in plans]
    await asyncio.sleep(RUNNING_S)
    victim = next(child for child in launcher.children() if CURRENT.worker in child.cmdline())
    os.kill(victim.pid, signal.SIGKILL)
    killed_s = time.monotonic()
    await until_ready(target.server, 1)
    await until_ready(target.server, 2)
    back_s = time.monotonic() - killed_s
    records: list[Record] = await asyncio.gather(*streams)
    failed = [record.error for record in records if record.error]
    if failed:
        raise SystemExit(f"requests failed: {failed}")
    return max(gap for record in records for gap in record.gaps_s), back_s


async def main() -> None:
    """Kill one worker in each round and print how long the recovery took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=["torch", "fake"], default="torch")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    flags = ["--engine", args.engine, "--workers", "2", "--frontends", "2"]
    if args.engine == "torch":
        flags += ["--kv-cache-memory-bytes", "512MiB"]
    with pool(ROOT, None, 0.02, flags) as served:
        launcher = psutil.Process(psutil.Process(served.worker_pid).ppid())
        server = Server(served.url, {})
        target = Target(server, await first_model(server), "completions")
        await until_ready(server, 2)
        for number in range(args.rounds):
            gap_s, back_s = await one_round(target, number, launcher)
            print(
                f"longest gap {gap_s * 1000:.0f} ms, ready again after {back_s:.1f} s", flush=True
            )
            await asyncio.sleep(1.0)
        await server.close()


if __name__ == "__main__":
    asyncio.run(main())
