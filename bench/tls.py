"""Measure what TLS, and keys, cost a frontend: CPU time of a request and of a streamed event.

Starts pools of the fake engine with one frontend each: without anything, with TLS, and with --keys
also with keys, and with both. They are measured in turn over connections of HTTP/1.1 that stay
open; the medians of the rounds' ratios to the first pool are printed, and only those compare. A
request is a chat of one token, not streamed; an event is one of a long stream.

Usage: python -m bench.tls [--keys] [--streams 32] [--requests 2000] [--rounds 5]
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load.client import Target, first_model, measure
from bench.load.fake_pools import Pool, cpu_s, pool
from bench.load.http import Server
from bench.load.layouts import ROOT
from bench.load.prompts import Mix, session
from bench.load.records import Record, ratio, summarize
from bench.load.schedule import Load, run

CHAT = b'{"messages":[{"role":"user","content":"hello"}],"max_tokens":1}'
# The most that TLS and keys together may cost.
BAR = 1.15


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU time of a frontend in microseconds."""

    request_us: float
    event_us: float


def make_certificate(folder: Path) -> list[str]:
    """Write a certificate for this machine; return the flags of `headrace serve`."""
    files = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost", "-addext"]
    command += ["subjectAltName=IP:127.0.0.1", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    return ["--ssl-certfile", str(files[0]), "--ssl-keyfile", str(files[1])]


async def _send_whole(server: Server, count: int, at_once: int) -> None:
    async def send(number: int) -> None:
        for _ in range(number):
            async with server.request("POST", "/v1/chat/completions", CHAT) as response:
                body = await response.read()
                if response.status != 200:
                    raise SystemExit(f"{response.status}: {body!r}")

    await asyncio.gather(*(send(count // at_once) for _ in range(at_once)))


async def run_load(served: Pool, headers: dict[str, str], options: argparse.Namespace) -> Costs:
    """Return what requests and events of a pool cost, after a warm-up that opens connections."""
    server = Server(served.url, headers)
    target = Target(server, await first_model(server), "chat")
    mix = Mix("fixed", prompt_tokens=16, output_tokens=options.output_tokens)

    async def stream(first: int) -> list[Record]:
        return await run(
            Load(concurrency=options.streams, requests=options.streams * 2),
            lambda index: session(mix, "chat", first + index),
            lambda planned: measure(target, planned),
        )

    try:
        await _send_whole(server, options.streams * 2, options.streams)
        before = cpu_s(served.frontend_pid)
        await _send_whole(server, options.requests, options.streams)
        request_us = (cpu_s(served.frontend_pid) - before) / options.requests * 1e6
        before = cpu_s(served.frontend_pid)
        summary = summarize(await stream(1_000_000), 0.0)
        if summary.failed:
            raise SystemExit(f"{summary.failed} streams failed: {list(summary.errors)}")
        spent_s = cpu_s(served.frontend_pid) - before
        return Costs(request_us, spent_s / max(summary.content_events, 1) * 1e6)
    finally:
        await server.close()


def show(name: str, these: Sequence[Costs], plain: Sequence[Costs]) -> None:
    """Print the medians of a pool, and of its ratios to the plain one."""
    for what in ("request_us", "event_us"):
        values = [getattr(each, what) for each in these]
        ratios = [
            ratio(value, getattr(other, what)) for value, other in zip(values, plain, strict=True)
        ]
        middle = statistics.median(ratios)
        verdict = "" if name == "plain" else f"  {'within' if middle <= BAR else 'OVER'} {BAR}"
        shown = f"{statistics.median(values):9.1f} µs  ratio {middle:.3f}"
        spread = f"({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"{name:>10} {what.removesuffix('_us'):>8} {shown} {spread}{verdict}", flush=True)


def main() -> None:
    """Measure the pools in turn."""
    parser = argparse.ArgumentParser(prog="bench.tls")
    parser.add_argument("--keys", action="store_true", help="measure keys, too, and both together")
    parser.add_argument("--model", help="the model whose tokenizer and chat template are used")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--step-s", type=float, default=0.002)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    key = secrets.token_hex(16)
    bearer = {"Authorization": f"Bearer {key}"}
    with tempfile.TemporaryDirectory(prefix="hr-") as folder, contextlib.ExitStack() as stack:
        tls = make_certificate(Path(folder))
        os.environ["SSL_CERT_FILE"] = f"{folder}/cert.pem"  # clients trust it
        kinds: dict[str, tuple[list[str], dict[str, str]]] = {"plain": ([], {}), "TLS": (tls, {})}
        if options.keys:
            kinds["keys"] = (["--api-key", key], bearer)
            kinds["TLS, keys"] = ([*tls, "--api-key", key], bearer)
        pools = {
            name: stack.enter_context(pool(ROOT, options.model, options.step_s, flags))
            for name, (flags, _) in kinds.items()
        }
        results: dict[str, list[Costs]] = {name: [] for name in pools}
        for number in range(options.rounds):
            order = list(pools) if number % 2 == 0 else list(reversed(pools))
            for name in order:
                costs = asyncio.run(run_load(pools[name], kinds[name][1], options))
                results[name].append(costs)
        for name, costs_of in results.items():
            show(name, costs_of, results["plain"])


if __name__ == "__main__":
    main()
