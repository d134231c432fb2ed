"""Measure a batch: its lines per second, its cost for live requests, and that deaths lose no line.

Three pools, one after another:

- live: short requests arrive at a steady rate, alone and beside a batch, in turn. Shown are the
  ratios of their latencies, and how many were rejected.
- batch: a batch of all lines has the pool for itself.
- killed: all processes of the pool are killed (SIGKILL) after each third of the lines; each line
  must have exactly one result in the end.

    HF_HUB_OFFLINE=1 python -m bench.batches [--engine torch] [--lines 10000] [--only live]
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.load.fake_pools import pool
from bench.load.layouts import ROOT

CHAT = "/v1/chat/completions"
POLL_S = 0.25
ENDED = ("completed", "failed", "expired", "cancelled")
DEATHS = 2


def jsonl(lines: int, tokens: int) -> bytes:
    """Return an input of so many chats, each with so many tokens of output."""
    return b"".join(
        json.dumps(
            {"custom_id": f"line-{n}", "method": "POST", "url": CHAT, "body": chat(n, tokens)}
        ).encode()
        + b"\n"
        for n in range(lines)
    )


def chat(number: int, tokens: int) -> dict[str, Any]:
    """Return a short chat; no two share more than a beginning."""
    messages = [{"role": "user", "content": f"{number}: tell me about this number."}]
    return {"messages": messages, "max_tokens": tokens, "ignore_eos": True}


async def start(client: httpx.AsyncClient, content: bytes) -> str:
    """Upload an input and start its batch; return the batch's id."""
    files = {"file": ("in.jsonl", content)}
    stored = await client.post("/v1/files", files=files, data={"purpose": "batch"})
    file_id = stored.raise_for_status().json()["id"]
    asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    created = await client.post("/v1/batches", json=asked)
    return str(created.raise_for_status().json()["id"])


async def batch_now(client: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    """Return a batch as it is now."""
    found = (await client.get(f"/v1/batches/{batch_id}")).raise_for_status()
    body: dict[str, Any] = found.json()
    return body


async def until(
    client: httpx.AsyncClient, batch_id: str, holds: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Return a batch once something holds of it, or it has ended."""
    while True:
        body = await batch_now(client, batch_id)
        if holds(body) or body["status"] in ENDED:
            return body
        await asyncio.sleep(POLL_S)


def done(body: dict[str, Any]) -> int:
    """Return how many lines of a batch have ended."""
    counts = body["request_counts"]
    return int(counts["completed"] + counts["failed"])


async def live(
    client: httpx.AsyncClient, rate: float, duration_s: float, tokens: int
) -> tuple[list[float], int]:
    """Send requests at a steady rate; return their latencies, and how many were rejected."""
    latencies: list[float] = []
    rejected = 0

    async def ask(number: int) -> None:
        nonlocal rejected
        started = time.monotonic()
        answer = await client.post(CHAT, json=chat(10**6 + number, tokens))
        if answer.status_code == 200:
            latencies.append(time.monotonic() - started)
        else:
            rejected += 1

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * duration_s)):
            group.create_task(ask(number))
            await asyncio.sleep(1 / rate)
    return latencies, rejected


async def measure_live(url: str, args: argparse.Namespace) -> None:
    """Print the latencies of live requests alone and beside a batch, in turn."""
    found: dict[str, list[float]] = {"alone": [], "beside": []}
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        await live(client, args.rate, 2.0, args.tokens)
        for _ in range(args.rounds):
            alone, _ = await live(client, args.rate, args.seconds, args.tokens)
            batch_id = await start(client, jsonl(50_000, args.tokens))
            await until(client, batch_id, lambda body: done(body) > 0)
            await asyncio.sleep(2.0)  # until as many lines run as may
            before, started = done(await batch_now(client, batch_id)), time.monotonic()
            beside, rejected = await live(client, args.rate, args.seconds, args.tokens)
            body = await batch_now(client, batch_id)
            rate = (done(body) - before) / (time.monotonic() - started)
            await client.post(f"/v1/batches/{batch_id}/cancel")
            await until(client, batch_id, lambda body: False)
            found["alone"] += alone
            found["beside"] += beside
            print(f"  round: {rate:.0f} lines/s beside, {rejected} live requests rejected")
    for name, of in (("median", statistics.median), ("p95", _p95)):
        alone_s, beside_s = of(found["alone"]), of(found["beside"])
        print(
            f"live {name}: {alone_s * 1000:.0f} ms alone, {beside_s * 1000:.0f} ms beside a batch,"
            f" ratio {beside_s / alone_s:.2f}"
        )


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[18]


async def measure_batch(url: str, args: argparse.Namespace) -> None:
    """Print how fast a batch runs in an idle pool."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        started = time.monotonic()
        batch_id = await start(client, jsonl(args.lines, args.tokens))
        body = await until(client, batch_id, lambda body: body["status"] != "validating")
        validated_s = time.monotonic() - started
        body = await until(client, batch_id, lambda body: False)
        seconds = time.monotonic() - started
    tokens = body["usage"]["output_tokens"]
    print(
        f"batch: {body['status']}, {done(body)} lines in {seconds:.1f} s, checked in"
        f" {validated_s:.1f} s; {done(body) / seconds:.0f} lines/s, {tokens / seconds:.0f} tokens/s"
    )


async def run_until_killed(url: str, batch_id: str, args: argparse.Namespace, share: float) -> str:
    """Start the batch, or go on with it, until a share of its lines has ended."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        batch_id = batch_id or await start(client, jsonl(args.lines, args.tokens))
        body = await until(client, batch_id, lambda body: done(body) >= share * args.lines)
        print(f"  {done(body)} lines have ended")
    return batch_id


async def check_lines(url: str, batch_id: str, lines: int) -> None:
    """Raise SystemExit unless each line has one result."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        body = await until(client, batch_id, lambda body: False)
        output = await client.get(f"/v1/files/{body['output_file_id']}/content")
    ids = [json.loads(line)["custom_id"] for line in output.text.splitlines()]
    if sorted(ids) != sorted(f"line-{n}" for n in range(lines)):
        raise SystemExit(f"lines are lost or double: {len(ids)} results, {len(set(ids))} lines")
    print(f"killed {DEATHS} times: {body['status']}, each of {lines} lines has one result")


def launcher_of(frontend_pid: int) -> psutil.Process:
    """Return the launcher of a frontend."""
    return psutil.Process(psutil.Process(frontend_pid).ppid())


def kill(launcher: psutil.Process) -> None:
    """Kill a launcher and all that it has started, at once."""
    processes = [launcher, *launcher.children(recursive=True)]
    for process in processes:
        process.suspend()  # so that none sees another's end
    for process in processes:
        process.kill()


def measure_deaths(args: argparse.Namespace, flags: Sequence[str]) -> None:
    """Kill all processes again and again while a batch runs."""
    with tempfile.TemporaryDirectory(prefix="hr-kept-") as folder:
        store = f"sqlite:///{Path(folder, 'store.db')}"
        kept = [*flags, "--response-store-url", store, "--file-dir", str(Path(folder, "files"))]
        batch_id = ""
        for death in range(DEATHS):
            with pool(ROOT, args.model, args.step, kept) as running:
                share = (death + 1) / (DEATHS + 1)
                batch_id = asyncio.run(run_until_killed(running.url, batch_id, args, share))
                kill(launcher_of(running.frontend_pid))
        with pool(ROOT, args.model, args.step, kept) as running:
            asyncio.run(check_lines(running.url, batch_id, args.lines))


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="as of headrace serve (the default model)")
    parser.add_argument("--engine", choices=("fake", "torch"), default="fake")
    parser.add_argument("--step", type=float, default=0.005, help="seconds of a fake step")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=16, help="of output, of each request")
    parser.add_argument("--rate", type=float, default=10.0, help="live requests a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each part of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("live", "batch", "killed"))
    parser.add_argument("--flags", nargs="*", default=[], help="more flags of headrace serve")
    args = parser.parse_args()
    flags = ["--frontends", "2", "--engine", args.engine, *args.flags]
    with contextlib.suppress(KeyboardInterrupt):
        for name, measure in (("live", measure_live), ("batch", measure_batch)):
            if args.only in (None, name):
                with pool(ROOT, args.model, args.step, flags) as running:
                    asyncio.run(measure(running.url, args))
        if args.only in (None, "killed"):
            measure_deaths(args, flags)


if __name__ == "__main__":
    main()
