"""What a pool is worth when far more comes than it can do, and what one tenant can do to another.

Overload: the peak of tokens per second is measured with as many users as the pool takes; then
requests come at 1 and at 10 times the rate of that peak, whatever has become of those before them.
Goodput counts only requests that were answered in full. Fairness: one user with a request now and
then, alone and then beside another who keeps a hundred in flight. (A user who sends the next
request at once sends it into a step that has the prompt of whoever just got the free place.)

    HF_HUB_OFFLINE=1 python -m bench.overload [--engine fake] [--seconds 30] [--places 16]
"""

import argparse
import asyncio
import time
from dataclasses import dataclass

from bench.frontend import ROOT, pool
from bench.load.client import Target, first_model, measure
from bench.load.http import Server
from bench.load.prompts import Mix, Planned, session
from bench.load.records import Record, Summary, spread, summarize
from bench.load.schedule import Load, run

MIX = Mix(kind="random", prompt_tokens=60, output_tokens=60)
LIGHT_MIX = Mix(kind="random", prompt_tokens=60, output_tokens=16)
LIGHT_RATE = 1.0  # requests per second
HEAVY_USERS = 100


@dataclass(slots=True)
class Client:
    """One user's requests to a pool; no prompt comes twice."""

    target: Target
    first_session: int = 0
    mix: Mix = MIX

    async def load(self, load: Load) -> list[Record]:
        start = self.first_session
        self.first_session += 1_000_000

        def make(index: int) -> list[Planned]:
            return session(self.mix, "completions", start + index)

        async def send(planned: Planned) -> Record:
            return await measure(self.target, planned)

        return await run(load, make, send)


def line(name: str, summary: Summary, refused: list[Record]) -> str:
    told = spread([record.ended_s - record.started_s for record in refused])
    return (
        f"{name}: {summary.output_tokens_per_s:.0f} tokens/s of {summary.ok} requests, "
        f"TTFT p50 {summary.ttft_ms.p50:.0f} p99 {summary.ttft_ms.p99:.0f} ms; "
        f"{len(refused)} refused, in p50 {told.p50:.0f} p99 {told.p99:.0f} ms {summary.errors}"
    )


async def overload(client: Client, places: int, queue: int, seconds: float) -> None:
    await client.load(Load(concurrency=places, requests=2 * places))
    found = {}
    peak = summarize(await client.load(Load(concurrency=places + queue // 2, duration_s=seconds)))
    print(line("peak", peak, []), flush=True)
    for times in (1, 10):
        load = Load(rate=times * peak.requests_per_s, duration_s=seconds)
        records = await client.load(load)
        found[times] = summarize(records)
        refused = [record for record in records if record.error]
        print(line(f"{times} times its rate", found[times], refused), flush=True)
    goodput = found[10].output_tokens_per_s / peak.output_tokens_per_s
    late, once = found[10].ttft_ms.p99, found[1].ttft_ms.p99
    print(
        f"at 10 times: goodput {goodput:.2f} of the peak, "
        f"p99 TTFT {late / peak.ttft_ms.p99:.2f} of the peak's, {late / once:.2f} of that at once"
    )


async def fairness(light: Client, heavy: Client, seconds: float) -> None:
    await heavy.load(Load(concurrency=4, requests=8))
    alone = summarize(await light.load(Load(rate=LIGHT_RATE, duration_s=seconds)))
    flood = asyncio.create_task(heavy.load(Load(concurrency=HEAVY_USERS, duration_s=seconds + 5)))
    await asyncio.sleep(5)
    beside = summarize(await light.load(Load(rate=LIGHT_RATE, duration_s=seconds)))
    for name, found in (("alone", alone), ("beside a hundred", beside)):
        print(f"{name}: TTFT p50 {found.ttft_ms.p50:.0f} p99 {found.ttft_ms.p99:.0f} ms")
    p50 = beside.ttft_ms.p50 / alone.ttft_ms.p50
    p99 = beside.ttft_ms.p99 / alone.ttft_ms.p99
    print(f"ratio: p50 {p50:.2f}, p99 {p99:.2f}", flush=True)
    await flood


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=["torch", "fake"], default="torch")
    parser.add_argument("--step-s", type=float, default=0.02, help="of the fake engine")
    parser.add_argument("--model", default=None)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--places", type=int, default=16)
    parser.add_argument("--threads", type=int, help="of the engine; leaves the other cores to us")
    args = parser.parse_args()
    queue = args.places // 2
    flags = ["--engine", args.engine, "--max-num-seqs", str(args.places)]
    if args.engine == "torch":
        flags += ["--kv-cache-memory-bytes", "1GiB"]
    if args.threads:
        flags += ["--threads", str(args.threads)]
    limit = ["--max-queue-requests", str(queue)]
    for what, more in (("overload", limit), ("fairness", [])):
        with pool(ROOT, args.model, args.step_s, [*flags, *more]) as served:
            server = Server(served.url, {})
            model = await first_model(server)
            if what == "overload":
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
