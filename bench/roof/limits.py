"""Measure which share of the machine's limits the kernels of an instruction set reach.

decode    a step of one stream reads all weights: bytes a second over those that the cores read in
          order (`Probes.read`)
prefill   a prompt of 512 tokens: multiplications a second of rows with weights, over those that the
          set's instructions reach on numbers in the first cache (`Probes.multiply`). Attention,
          norms and the rounding of rows take time and count for nothing.
"""

import statistics
from collections.abc import Callable

from bench.roof.checks import CONTEXT, PREFILL_TOKENS
from bench.roof.driver import Driver
from bench.roof.floor import ModelSizes
from bench.roof.probes import Numbers, Probes
from bench.roof.rounds import Outcome, Turn, repeated, settle
from headrace.protocol.config import KernelSet
from headrace.workers.native.runner import NativeRunner
from headrace.workers.native.weight_format import WeightFormat, format_names

BAR = 0.8


def limits(
    name: KernelSet, driver: Driver, sizes: ModelSizes, probes: Probes, rounds: int, repeats: int
) -> list[Outcome]:
    """Return the shares of bandwidth and of the multiply rate. The engine must run a program."""
    runner = driver.engine.runner
    assert isinstance(runner, NativeRunner)
    compiled = runner._compiled
    label = f"{name}, {format_names(compiled.formats, compiled.dtype)}"
    driver.start([driver.prompt(CONTEXT - rounds * (repeats + 1) // 2)])

    def timed(call: Callable[[], object]) -> Turn:
        return repeated(lambda: _seconds(call, probes.clock))

    read = _share(timed(driver.step), compiled.weight_bytes, probes.read, rounds, repeats)
    driver.stop()
    numbers = numbers_of(compiled.formats, is_bfloat16=compiled.is_bf16)
    multiplied = _share(
        timed(lambda: driver.first_token(driver.prompt(PREFILL_TOKENS))),
        multiplications(sizes, PREFILL_TOKENS),
        lambda: probes.multiply(numbers),
        rounds,
        repeats,
    )
    return [
        _outcome(f"{label}: bandwidth, batch 1", *read, "GB/s"),
        _outcome(f"{label}: multiply rate, prefill", *multiplied, "G/s"),
    ]


def multiplications(sizes: ModelSizes, tokens: int) -> int:
    """Return how many numbers a prompt of so many tokens multiplies with weights."""
    return tokens * sum(a * b for a, b in sizes.products) + sizes.head[0] * sizes.head[1]


def numbers_of(formats: set[WeightFormat], *, is_bfloat16: bool) -> Numbers:
    """Return what kernels multiply for weights of these formats; of several, for the most bits."""
    if WeightFormat.FLOAT in formats or WeightFormat.INT8_WEIGHT_ONLY in formats:
        return Numbers.PAIRS if is_bfloat16 else Numbers.FLOATS
    names = {each.name.lower() for each in formats}
    return Numbers.BYTES if names & {"q8_0", "iq4_nl", "int8"} == names else Numbers.CODES


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    started_s = clock()
    call()
    return clock() - started_s


def _share(
    turn: Turn, amount: int, limit: Callable[[], float], rounds: int, repeats: int
) -> tuple[list[float], list[float]]:
    """Return the rates of the engine, and the limits before each turn of it, by round."""
    rates, most = [], []
    for _ in range(rounds):
        settle()
        most.append(max(limit() for _ in range(repeats)))
        settle()
        rates.append(amount / statistics.median(turn(repeats)))
    return rates, most


def _outcome(name: str, rates: list[float], most: list[float], unit: str) -> Outcome:
    shares = [rate / limit for rate, limit in zip(rates, most, strict=True)]
    facts = {
        unit: statistics.median(rates) / 1e9,
        f"limit {unit}": statistics.median(most) / 1e9,
        "best over best": max(rates) / max(most),
        "lowest round": min(shares),
        "highest round": max(shares),
    }
    return Outcome(name, statistics.median(shares), BAR, facts, is_least=True)
