"""Measure the resident memory of a worker process over its weights and its K/V cache."""

import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.load.layouts import CURRENT
from bench.load.prompts import Mix
from bench.load.schedule import Load
from bench.roof.floor import ModelSizes
from bench.roof.pool import running_pool, send_all
from bench.roof.rounds import Outcome

CACHE_BYTES = 256 * 2**20
MAX_MODEL_LEN = 4096
PROMPT_TOKENS = 256
OUTPUT_TOKENS = 8
STREAMS = 32
FILL_FACTOR = 1.25  # how often the requests' tokens fill the cache
BAR_MB = 600.0


@dataclass(frozen=True, slots=True)
class Resident:
    """A process's memory in bytes. pss: shared pages divided among the processes."""

    rss: int
    pss: int


def memory(model: str | None, dtype: str, sizes: ModelSizes, dtype_bytes: int) -> Outcome:
    """Start a pool, fill every block of its cache, and read the worker's memory.

    Pages become resident only when they are written: a partly filled cache would look small.
    """
    flags = ["--dtype", dtype, "--kv-cache-memory-bytes", str(CACHE_BYTES)]
    flags += ["--max-model-len", str(MAX_MODEL_LEN)] + (["--model", model] if model else [])
    cache_tokens = CACHE_BYTES // (sizes.cache_elements * dtype_bytes)
    count = int(cache_tokens * FILL_FACTOR) // (PROMPT_TOKENS + OUTPUT_TOKENS) + 1
    mix = Mix(
        prompt_tokens=PROMPT_TOKENS,
        output_tokens=OUTPUT_TOKENS,
        vocab_size=min(sizes.vocab_size, 30_000),
    )
    with running_pool(flags) as pool:
        send_all(pool.url, mix, Load(concurrency=STREAMS, requests=count))
        resident = _worker_memory(pool.launcher)
    return memory_outcome(resident, sizes.parameters * dtype_bytes, CACHE_BYTES)


def memory_outcome(resident: Resident, weight_bytes: int, cache_bytes: int) -> Outcome:
    """Return the memory over weights and cache, in MB (10^6 bytes)."""
    facts = {
        "resident MB": resident.rss / 1e6,
        "proportional MB": resident.pss / 1e6,
        "weights MB": weight_bytes / 1e6,
        "cache MB": cache_bytes / 1e6,
    }
    over_mb = (resident.rss - weight_bytes - cache_bytes) / 1e6
    return Outcome("worker over weights and cache", over_mb, BAR_MB, facts, unit="MB")


def parse_rollup(text: str) -> Resident:
    """Parse /proc/PID/smaps_rollup. Raises ValueError if it lacks a line."""
    found = dict(re.findall(r"^(Rss|Pss): +(\d+) kB$", text, re.MULTILINE))
    if len(found) != 2:
        raise ValueError("smaps_rollup lacks Rss or Pss")
    return Resident(int(found["Rss"]) * 1024, int(found["Pss"]) * 1024)


def _worker_memory(launcher: int) -> Resident:
    workers = [
        process
        for process in psutil.Process(launcher).children(recursive=True)
        if CURRENT.worker in process.cmdline()
    ]
    if len(workers) != 1:
        raise RuntimeError(f"{len(workers)} workers run instead of one")
    return parse_rollup(Path(f"/proc/{workers[0].pid}/smaps_rollup").read_text())
