"""Measure goodput under overload, and how much one tenant can slow down another.

Overload: the peak rate in tokens/s is measured with as many users as the pool takes; then requests
arrive at 1 and at 10 times the rate of that peak, whatever became of earlier ones. Goodput counts
only requests that were answered in full. Fairness: one user with an occasional request, alone and
then with another user who keeps a hundred in flight. (A user who sends the next request at once
sends it into a step that holds the prompt of the request that just got the free slot.)

    HF_HUB_OFFLINE=1 python -m bench.overload [--engine fake] [--seconds 30] [--places 16]
"""

import argparse
import asyncio
import time
from dataclasses import dataclass

from bench.load.client import Target, first_model, measure
from bench.load.fake_pools import pool
from bench.load.http import Server
from bench.load.layouts import ROOT
from bench.load.prompts import Mix, Planned, session
from bench.load.records import Record, Summary, spread, summarize
from bench.load.schedule import Load, run

MIX = Mix(kind="random", prompt_tokens=60, output_tokens=60)
LIGHT_MIX = Mix(kind="random", prompt_tokens=60, output_tokens=16)
LIGHT_RATE = 1.0  # requests per second
HEAVY_USERS = 100


@dataclass(slots=True)
class Client:
    """Sends one user's requests to a pool; no prompt is sent twice."""

    target: Target
    first_session: int = 0
    mix: Mix = MIX

    async def load(self, load: Load) -> list[Record]:
        """Run a load and return its records."""
        start = self.first_session
        self.first_session += 1_000_000

        def make_session(index: int) -> list[Planned]:
            return session(self.mix, "completions", start + index)

        async def send(planned: Planned) -> Record:
            return await measure(self.target, planned)

        return await run(load, make_session, send)


def line(name: str, summary: Summary, rejected: list[Record]) -> str:
    """Return a summary as text."""
    latency = spread([record.ended_s - record.started_s for record in rejected])
    return (
        f"{name}: {summary.output_tokens_per_s:.0f} tokens/s of {summary.ok} requests, "
        f"TTFT p50 {summary.ttft_ms.p50:.0f} p99 {summary.ttft_ms.p99:.0f} ms; "
        f"{len(rejected)} rejected, in p50 {latency.p50:.0f} p99 {latency.p99:.0f} ms "
        f"{summary.errors}"
    )


async def overload(client: Client, slots: int, queue: int, seconds: float) -> None:
    """Measure the peak, then goodput at 1 and 10 times its request rate."""
    await client.load(Load(concurrency=slots, requests=2 * slots))
    summaries = {}
    peak = summarize(await client.load(Load(concurrency=slots + queue // 2, duration_s=seconds)))
    print(line("peak", peak, []), flush=True)
    for times in (1, 10):
        load = Load(rate=times * peak.requests_per_s, duration_s=seconds)
        records = await client.load(load)
        summaries[times] = summarize(records)
        rejected = [record for record in records if record.error]
        print(line(f"{times} times its rate", summaries[times], rejected), flush=True)
    goodput = summaries[10].output_tokens_per_s / peak.output_tokens_per_s
    late, once = summaries[10].ttft_ms.p99, summaries[1].ttft_ms.p99
    print(
        f"at 10 times: goodput {goodput:.2f} of the peak, "
        f"p99 TTFT {late / peak.ttft_ms.p99:.2f} of the peak's, {late / once:.2f} of that at once"
    )


async def fairness(light: Client, heavy: Client, seconds: float) -> None:
    """Measure the light user's TTFT alone and with the heavy user."""
    await heavy.load(Load(concurrency=4, requests=8))
    alone = summarize(await light.load(Load(rate=LIGHT_RATE, duration_s=seconds)))
    flood = asyncio.create_task(heavy.load(Load(concurrency=HEAVY_USERS, duration_s=seconds + 5)))
    await asyncio.sleep(5)
    shared = summarize(await light.load(Load(rate=LIGHT_RATE, duration_s=seconds)))
    for name, summary in (("alone", alone), ("with a hundred", shared)):
        print(f"{name}: TTFT p50 {summary.ttft_ms.p50:.0f} p99 {summary.ttft_ms.p99:.0f} ms")
    p50 = shared.ttft_ms.p50 / alone.ttft_ms.p50
    p99 = shared.ttft_ms.p99 / alone.ttft_ms.p99
    print(f"ratio: p50 {p50:.2f}, p99 {p99:.2f}", flush=True)
    await flood


async def main() -> None:
    """Run both measurements, each on a pool of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=["torch", "fake"], default="torch")
    parser.add_argument("--step-s", type=float, default=0.02, help="of the fake engine")
    parser.add_argument("--model", default=None)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--places", type=int, default=16, help="requests that run at once")
    parser.add_argument(
        "--threads", type=int, help="of the engine; the others are left to the load"
    )
    args = parser.parse_args()
    queue = args.places // 2
    flags = ["--engine", args.engine, "--max-num-seqs", str(args.places)]
    if args.engine == "torch":
        flags += ["--kv-cache-memory-bytes", "1GiB"]
    if args.threads:
        flags += ["--threads", str(args.threads)]
    limit = ["--max-queue-requests", str(queue)]
    for measurement, more in (("overload", limit), ("fairness", [])):
        with pool(ROOT, args.model, args.step_s, [*flags, *more]) as served:
            server = Server(served.url, {})
            model = await first_model(server)
            if measurement == "overload":
                await overload(
                    Client(Target(server, model, "completions")), args.places, queue, args.seconds
                )
            else:
                light, heavy = (
                    Client(Target(server, model, "completions", extra={"user": user}), start, mix)
                    for start, user, mix in (
                        (10**9, "light", LIGHT_MIX),
                        (2 * 10**9, "heavy", MIX),
                    )
                )
                await fairness(light, heavy, args.seconds)
            await server.close()


if __name__ == "__main__":
    started = time.monotonic()
    asyncio.run(main())
    print(f"{time.monotonic() - started:.0f} s")
