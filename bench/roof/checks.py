"""Measure an engine, each measurement with its bar."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from bench.roof.driver import Driver, Gaps
from bench.roof.floor import Floor
from bench.roof.rounds import Outcome, Timed, alternate, percentile, repeated, settle

CONTEXT = 160
LONG_CONTEXT = 2000
LONG_BATCH = 16
PREFILL_TOKENS = 512
DECODE_BARS = {1: 1.1, 16: 1.1, 64: 1.0}
PREFILL_BAR = 1.1
CONTEXT_BAR = 1.6
ARRIVAL_TOKENS = 4000
ARRIVAL_STREAMS = 8
ARRIVAL_PLAIN_STEPS = 16
ARRIVAL_BAR = 4.0
TURN_TOKENS = 2000
ANSWER_TOKENS = 48
QUESTION_TOKENS = 32
TURN_BAR = 0.1


@dataclass(frozen=True, slots=True)
class Bench:
    """The engine that is measured, and the number of repetitions.

    rounds: how often the two sides of a ratio take turns. repeats: timings in each turn.
    """

    driver: Driver
    floor: Floor
    rounds: int
    repeats: int


def decode(bench: Bench) -> list[Outcome]:
    """Time a decode step over the products of its rows, at a context of 160 tokens."""
    return [_decode(bench, batch, bar) for batch, bar in DECODE_BARS.items()]


def _decode(bench: Bench, batch: int, bar: float) -> Outcome:
    steps = bench.rounds * (bench.repeats + 1)
    # The middle step has exactly this context.
    tokens = max(1, CONTEXT - steps // 2)
    bench.driver.start([bench.driver.prompt(tokens) for _ in range(batch)])
    timed = alternate(
        repeated(bench.driver.step),
        repeated(lambda: bench.floor.run(batch, batch)),
        bench.rounds,
        bench.repeats,
    )
    bench.driver.stop()
    return timed.outcome(f"decode step, batch {batch}", bar, "step", "products")


def prefill(bench: Bench) -> list[Outcome]:
    """Time a prompt of 512 tokens to its first token over the products of its rows."""
    driver, floor = bench.driver, bench.floor
    timed = alternate(
        repeated(lambda: driver.first_token(driver.prompt(PREFILL_TOKENS))),
        repeated(lambda: floor.run(PREFILL_TOKENS, 1)),
        bench.rounds,
        bench.repeats,
    )
    name = f"prefill of {PREFILL_TOKENS} tokens"
    return [timed.outcome(name, PREFILL_BAR, "prefill", "products")]


def context(bench: Bench) -> list[Outcome]:
    """Time a decode step of 16 streams at a context of 2,000 tokens over one at 160."""
    timed = alternate(
        _decode_turn(bench.driver, LONG_CONTEXT),
        _decode_turn(bench.driver, CONTEXT),
        bench.rounds,
        bench.repeats,
    )
    name = f"context {LONG_CONTEXT} over {CONTEXT}, batch {LONG_BATCH}"
    return [timed.outcome(name, CONTEXT_BAR, "long", "short")]


def _decode_turn(driver: Driver, tokens: int) -> Callable[[int], list[float]]:
    """Return turns of decode steps; each turn restarts its streams from the prefix cache."""
    prompts = [driver.prompt(tokens) for _ in range(LONG_BATCH)]
    driver.start(prompts)
    driver.stop()

    def turn(repeats: int) -> list[float]:
        driver.start(prompts)
        seconds = repeated(driver.step)(repeats)
        driver.stop()
        return seconds

    return turn


def arrival(bench: Bench) -> list[Outcome]:
    """Time streams while a long prompt arrives: the p99 between their tokens until its first token,
    over the median before it arrived.

    Stricter than both over one window, in which undisturbed steps would dilute the others.
    """
    driver, rounds = bench.driver, []
    for _ in range(bench.rounds):
        gaps = Gaps()
        driver.start([driver.prompt(CONTEXT) for _ in range(ARRIVAL_STREAMS)])
        settle()
        driver.step()
        driver.disturb(driver.prompt(ARRIVAL_TOKENS), gaps, ARRIVAL_PLAIN_STEPS)
        driver.stop()
        rounds.append(gaps)
    return [arrival_outcome(rounds)]


def arrival_outcome(rounds: list[Gaps]) -> Outcome:
    """Return the median of the rounds' ratios, and the figures behind it."""
    ratios = [percentile(gaps.disturbed, 99) / statistics.median(gaps.plain) for gaps in rounds]
    plain = [gap for gaps in rounds for gap in gaps.plain]
    disturbed = [gap for gaps in rounds for gap in gaps.disturbed]
    facts = {
        "median alone ms": statistics.median(plain) * 1e3,
        "median ms": statistics.median(disturbed) * 1e3,
        "p99 ms": percentile(disturbed, 99) * 1e3,
        "lowest round": min(ratios),
        "highest round": max(ratios),
    }
    name = f"{ARRIVAL_TOKENS} tokens among {ARRIVAL_STREAMS} streams"
    return Outcome(name, statistics.median(ratios), ARRIVAL_BAR, facts)


def turn(bench: Bench) -> list[Outcome]:
    """Time the second turn of a chat over its first, each until the first token."""
    driver = bench.driver
    first, second = [], []
    for _ in range(bench.rounds):
        prompt = driver.prompt(TURN_TOKENS)
        settle()
        first_s, answer = driver.answer(prompt, ANSWER_TOKENS)
        settle()
        second_s = driver.first_token(prompt + answer + driver.prompt(QUESTION_TOKENS))
        first.append([first_s])
        second.append([second_s])
    name = f"second turn after {TURN_TOKENS} tokens"
    return [Timed(second, first).outcome(name, TURN_BAR, "second", "first")]
