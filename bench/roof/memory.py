"""The resident memory of a real worker process over its weights and its cache."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.load import client
from bench.load.http import Server
from bench.load.prompts import Mix, Planned, session
from bench.load.records import Record
from bench.load.schedule import Load, run
from bench.roof.floor import ModelSizes
from bench.roof.rounds import Outcome

CACHE_BYTES = 256 * 2**20
MAX_MODEL_LEN = 4096
PROMPT_TOKENS = 256
OUTPUT_TOKENS = 8
STREAMS = 32
FILLED = 1.25  # how often the requests' tokens fill the cache
BAR_MB = 600.0
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Resident:
    """A process's memory in bytes: all that is resident, and with shared pages divided among
    those who share them."""

    rss: int
    pss: int


def memory(model: str | None, dtype: str, sizes: ModelSizes, dtype_bytes: int) -> Outcome:
    """Start a pool, fill its cache's every block, and read the worker's memory.

    Pages are resident only once they are written to: a cache that is not full would look small.
    """
    flags = ["--dtype", dtype, "--kv-cache-memory-bytes", str(CACHE_BYTES)]
    flags += ["--max-model-len", str(MAX_MODEL_LEN)] + (["--model", model] if model else [])
    with _pool(flags) as (url, launcher):
        cache_tokens = CACHE_BYTES // (sizes.cache_elements * dtype_bytes)
        asyncio.run(_fill(url, cache_tokens, sizes.vocab_size))
        resident = _worker_memory(launcher)
    return memory_outcome(resident, sizes.parameters * dtype_bytes, CACHE_BYTES)


def memory_outcome(resident: Resident, weight_bytes: int, cache_bytes: int) -> Outcome:
    """What is over weights and cache, in MB (10^6 bytes)."""
    facts = {
        "resident MB": resident.rss / 1e6,
        "proportional MB": resident.pss / 1e6,
        "weights MB": weight_bytes / 1e6,
        "cache MB": cache_bytes / 1e6,
    }
    over_mb = (resident.rss - weight_bytes - cache_bytes) / 1e6
    return Outcome("worker over weights and cache", over_mb, BAR_MB, facts, unit="MB")


def parse_rollup(text: str) -> Resident:
    """Of /proc/PID/smaps_rollup. ValueError if it lacks a line."""
    found = dict(re.findall(r"^(Rss|Pss): +(\d+) kB$", text, re.MULTILINE))
    if len(found) != 2:
        raise ValueError("smaps_rollup lacks Rss or Pss")
    return Resident(int(found["Rss"]) * 1024, int(found["Pss"]) * 1024)


def _worker_memory(launcher: int) -> Resident:
    workers = [
        process
        for process in psutil.Process(launcher).children(recursive=True)
        if "workers.main" in process.cmdline()
    ]
    if len(workers) != 1:
        raise RuntimeError(f"{len(workers)} workers run instead of one")
    return parse_rollup(Path(f"/proc/{workers[0].pid}/smaps_rollup").read_text())


async def _fill(url: str, cache_tokens: int, vocab_size: int) -> None:
    """Run requests of more tokens than the cache has. RuntimeError if one fails."""
    server = Server(url, {})
    target = client.Target(server, await client.first_model(server), "completions")
    mix = Mix(
        prompt_tokens=PROMPT_TOKENS, output_tokens=OUTPUT_TOKENS, vocab_size=min(vocab_size, 30_000)
    )

    async def send(planned: Planned) -> Record:
        return await client.measure(target, planned)

    count = int(cache_tokens * FILLED) // (PROMPT_TOKENS + OUTPUT_TOKENS) + 1
    load = Load(concurrency=STREAMS, requests=count)
    records = await run(load, lambda index: session(mix, "completions", index), send)
    await server.close()
    for record in records:
        if record.error:
            raise RuntimeError(f"a request failed: {record.error}")


@contextlib.contextmanager
def _pool(flags: list[str]) -> Iterator[tuple[str, int]]:
    """A running pool's URL and its launcher's process id."""
    command = [sys.executable, "-m", "coordinator.cli", "serve", "--port", "0", *flags]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield _wait(process, log.fileno()), process.pid
        finally:
            _stop(process)


def _wait(process: subprocess.Popen[bytes], log: int) -> str:
    """The URL, once the pool serves there. RuntimeError with its log if it does not come up."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    text = ""
    while time.monotonic() < deadline_s and process.poll() is None:
        text = os.pread(log, 2**20, 0).decode(errors="replace")
        found = re.search(r"^Headrace serves .* at (\S+)$", text, re.MULTILINE)
        if found:
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"the pool did not come up:\n{text}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
