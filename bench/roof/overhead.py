"""Measure what frontend, queue and engine loop add to a token, on an engine that only sleeps."""

import statistics
import time

from bench.load.prompts import Mix
from bench.load.schedule import Load
from bench.roof.pool import running_pool, send_all
from bench.roof.rounds import Outcome, flat

STEP_S = 0.02
PROMPT_TOKENS = 64
OUTPUT_TOKENS = 64
BAR_MS = 2.0


def overhead(model: str | None, vocab_size: int, rounds: int) -> Outcome:
    """Time one stream of the fake engine: time per output token over a sleep of a step's length.

    The sleep is timed in this process, in turn with the requests: how late a process wakes up
    depends on the load of the machine.
    """
    flags = ["--engine", "fake", "--fake-step-s", str(STEP_S), "--frontends", "1"]
    flags += ["--model", model] if model else []
    tokens_s, sleeps_s = [], []
    with running_pool(flags) as pool:
        _token_times(pool.url, vocab_size, 0)  # connections, caches
        for number in range(1, rounds + 1):
            tokens_s.append(_token_times(pool.url, vocab_size, number))
            sleeps_s.append([_sleep() for _ in range(OUTPUT_TOKENS)])
    return overhead_outcome(tokens_s, sleeps_s)


def overhead_outcome(tokens_s: list[list[float]], sleeps_s: list[list[float]]) -> Outcome:
    """Return the median over the rounds of the mean token time minus the mean sleep."""
    pairs = zip(tokens_s, sleeps_s, strict=True)
    added = [(statistics.fmean(a) - statistics.fmean(b)) * 1e3 for a, b in pairs]
    facts = {
        "token ms": statistics.fmean(flat(tokens_s)) * 1e3,
        "bare step ms": statistics.fmean(flat(sleeps_s)) * 1e3,
        "lowest round": min(added),
        "highest round": max(added),
    }
    return Outcome("added to a token, batch 1", statistics.median(added), BAR_MS, facts, unit="ms")


def _token_times(url: str, vocab_size: int, seed: int) -> list[float]:
    """Return the time per output token after the first, of one request."""
    mix = Mix(
        prompt_tokens=PROMPT_TOKENS,
        output_tokens=OUTPUT_TOKENS,
        vocab_size=min(vocab_size, 30_000),
        seed=seed,
    )
    records = send_all(url, mix, Load(concurrency=1, requests=1))
    return [record.tpot_s for record in records if record.tpot_s is not None]


def _sleep() -> float:
    started_s = time.perf_counter()
    time.sleep(STEP_S)
    return time.perf_counter() - started_s
