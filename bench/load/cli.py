"""Run the loads of the command line and report."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any, TypeVar

from bench.load import client, report
from bench.load.http import HTTPFailure, Server
from bench.load.options import Options, parse
from bench.load.prompts import Planned, session
from bench.load.records import Record, Summary, summarize
from bench.load.schedule import Load, run

T = TypeVar("T")
SESSIONS_PER_RUN = 1_000_000  # each run has its own range: no prompt is in a prefix cache


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0, 1 if a request failed, 2 if a server cannot be used at all."""
    try:
        options = parse(arguments)
        return run_loop(_main(options))
    except (OSError, HTTPFailure, client.StreamError, ValueError) as error:
        print(f"bench/serve.py: {error}", file=sys.stderr)
        return 2


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, on uvloop if it is installed, which leaves more CPU time to the servers."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


async def _main(options: Options) -> int:
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    async with contextlib.AsyncExitStack() as stack:
        servers = [Server(url, headers) for url in options.urls]
        for server in servers:
            stack.push_async_callback(server.close)
        return await _run_all([await connect(server, options) for server in servers], options)


async def _run_all(targets: list[client.Target], options: Options) -> int:
    names = ["A", "B"] if len(targets) == 2 else [targets[0].model]
    for name, target in zip(names, targets, strict=True):
        print(f"{name}: {target.model} at {target.server.url}", flush=True)
    results: list[dict[str, object]] = []
    for number, load in enumerate(options.loads):
        first_session = (number * options.rounds + 1) * SESSIONS_PER_RUN
        summaries = await _run_load(targets, load, options, first_session)
        print("\n" + report.table(_title(load, options), names, summaries), flush=True)
        results += [_result(load, t, s) for t, s in zip(targets, summaries, strict=True)]
    if options.json_file is not None:
        settings = {"mix": asdict(options.mix), "endpoint": options.endpoint}
        options.json_file.write_text(json.dumps({**settings, "results": results}, indent=1) + "\n")
    return int(any(result["failed"] for result in results))


async def _run_load(
    targets: list[client.Target], load: Load, options: Options, first_session: int
) -> list[Summary]:
    """Run one load on every server in turn, so that other load on the machine affects all alike."""
    records: list[list[Record]] = [[] for _ in targets]
    cpu_s = [0.0] * len(targets)
    for round_number in range(options.rounds):
        start = first_session + round_number * SESSIONS_PER_RUN
        order = list(range(len(targets)))
        for index in order if round_number % 2 == 0 else reversed(order):
            new, used_s = await measure(targets[index], load, options, start)
            records[index] += _shift_after(records[index], new)
            cpu_s[index] += used_s
    return [summarize(all_, used_s) for all_, used_s in zip(records, cpu_s, strict=True)]


async def connect(server: Server, options: Options) -> client.Target:
    """Return a server with the fields of its requests. Raises StreamError if unreachable."""
    try:
        model = options.model or await client.first_model(server)
    except OSError as error:
        raise client.StreamError(f"{server.url}: {error.strerror or error}") from error
    return client.Target(
        server, model, options.endpoint, options.timeout_s, options.ignore_eos, options.extra
    )


async def measure(
    target: client.Target, load: Load, options: Options, first_session: int
) -> tuple[list[Record], float]:
    """Return the records of one run after its warm-up, and the CPU seconds of this program."""

    def make_session(index: int) -> list[Planned]:
        return session(options.mix, options.endpoint, first_session + index)

    def make_warmup(index: int) -> list[Planned]:
        return make_session(SESSIONS_PER_RUN // 2 + index)

    async def send(planned: Planned) -> Record:
        return await client.measure(target, planned)

    if options.warmup:
        await run(Load(concurrency=options.warmup, requests=options.warmup), make_warmup, send)
    cpu_s = time.process_time()
    records = await run(load, make_session, send)
    return records, time.process_time() - cpu_s


def _shift_after(earlier: list[Record], records: list[Record]) -> list[Record]:
    """Shift records in time so that they follow the earlier ones without a pause."""
    if not earlier or not records:
        return records
    shift_s = max(r.ended_s for r in earlier) - min(r.started_s for r in records)
    for record in records:
        record.started_s += shift_s
        record.ended_s += shift_s
        record.chunk_times_s = [time_s + shift_s for time_s in record.chunk_times_s]
    return records


def _title(load: Load, options: Options) -> str:
    mix = options.mix
    lengths = (
        "lengths as in ShareGPT"
        if mix.kind == "sharegpt"
        else f"{mix.kind} prompts of {mix.prompt_tokens}, outputs of {mix.output_tokens} tokens"
    )
    shared = f", {mix.shared_prefix_tokens} shared" if mix.shared_prefix_tokens else ""
    return f"{load.label}, {options.endpoint}, {lengths}{shared}"


def _result(load: Load, target: client.Target, summary: Summary) -> dict[str, object]:
    return {
        "url": target.server.url,
        "model": target.model,
        "load": asdict(load),
        **summary.as_json(),
    }
