"""The CPU time that a refusal costs a frontend and a worker, when all places are taken.

Starts a pool of the fake engine with three places, the queue's included, keeps them taken, and asks
again and again; what the pool takes anyway is measured before and subtracted. With two builds
(`--than` names the other one's source folder) they are measured in turn.

    python -m bench.refusals [--than FOLDER] [--requests 800]
"""

import argparse
import asyncio
import time
from pathlib import Path

from bench.frontend import ROOT, Pool, cpu_s, pool
from bench.load.client import Target, first_model, measure
from bench.load.http import Server
from bench.load.prompts import Mix, Planned, session
from bench.load.records import spread

FLAGS = ["--max-num-seqs", "2", "--max-queue-requests", "1"]
STEP_S = 0.05
IDLE_S = 2.0
WHO = ("the frontend", "the worker")


def planned(index: int, output_tokens: int) -> Planned:
    mix = Mix(kind="fixed", prompt_tokens=60, output_tokens=output_tokens)
    return session(mix, "completions", index)[0]


async def ask(served: Pool, requests: int) -> str:
    """What one refusal costs, in words."""
    server = Server(served.url)
    target = Target(server, await first_model(server), "completions")
    held = [asyncio.create_task(measure(target, planned(index, 2000))) for index in range(3)]
    await asyncio.sleep(1.0)
    pids = served.frontend_pid, served.worker_pid
    idle = [cpu_s(pid) for pid in pids]
    await asyncio.sleep(IDLE_S)
    shares = [(cpu_s(pid) - was) / IDLE_S for pid, was in zip(pids, idle, strict=True)]
    before, started = [cpu_s(pid) for pid in pids], time.monotonic()
    records = [await measure(target, planned(100 + index, 60)) for index in range(requests)]
    wall_s = time.monotonic() - started
    used = [
        cpu_s(pid) - was - share * wall_s
        for pid, was, share in zip(pids, before, shares, strict=True)
    ]
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    await server.close()
    told = spread([record.ended_s - record.started_s for record in records])
    refused = sum("HTTP 429" in (record.error or "") for record in records)
    costs = [
        f"{cost / requests * 1e3:.2f} ms of {who}" for cost, who in zip(used, WHO, strict=True)
    ]
    return f"{refused} refused, {', '.join(costs)} each; p50 {told.p50:.1f} p99 {told.p99:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.refusals")
    parser.add_argument("--than", type=Path, help="another build's source folder")
    parser.add_argument("--model", help="whose tokenizer is used")
    parser.add_argument("--requests", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    builds = {"this": ROOT} | ({"that": args.than} if args.than else {})
    for _ in range(args.rounds):
        for name, source in builds.items():
            with pool(source, args.model, STEP_S, FLAGS) as served:
                print(f"{name}: {asyncio.run(ask(served, args.requests))}", flush=True)


if __name__ == "__main__":
    main()
