"""Tokens are counted once an iteration of the event loop, and none is lost by it."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from headrace.frontend.metrics.tally import TalliedHistogram, TokenTally

BOUNDS = (0.01, 0.1, 1.0)
# Sums of these are exact in whatever order.
GAPS = st.integers(0, 16).map(lambda eighths: eighths / 8) | st.sampled_from(BOUNDS)


def made() -> tuple[CollectorRegistry, TokenTally]:
    registry = CollectorRegistry()
    tokens = Counter("tokens", "t", ("model",), registry=registry)
    gaps_s = TalliedHistogram("gaps", "g", ("model",), buckets=BOUNDS, registry=registry)
    return registry, TokenTally(tokens.labels("m"), gaps_s.labels("m"))


def numbers(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | GAPS)))
def test_the_numbers_are_those_of_observing_each(outputs: list[tuple[int, float | None]]) -> None:
    async def count() -> CollectorRegistry:
        registry, tally = made()
        for number, (tokens, gap_s) in enumerate(outputs):
            tally.add(tokens, gap_s)
            if number % 3 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        return registry

    expected = CollectorRegistry()
    counter = Counter("tokens", "t", ("model",), registry=expected).labels("m")
    gaps_s = Histogram("gaps", "g", ("model",), buckets=BOUNDS, registry=expected).labels("m")
    for tokens, gap_s in outputs:
        counter.inc(tokens)
        if gap_s is not None:
            gaps_s.observe(gap_s)
    found, wanted = numbers(asyncio.run(count())), numbers(expected)
    assert found.keys() == wanted.keys()
    assert found == {key: pytest.approx(value) for key, value in wanted.items()}


async def test_they_are_told_when_the_turn_ends_or_when_asked() -> None:
    registry, tally = made()
    tally.add(3, None)
    assert numbers(registry)["tokens_total", ""] == 0
    await asyncio.sleep(0)
    assert numbers(registry)["tokens_total", ""] == 3
    tally.add(4, 0.5)
    tally.flush()
    tally.flush()
    assert numbers(registry)["tokens_total", ""] == 7
    await asyncio.sleep(0)
    assert numbers(registry)["tokens_total", ""] == 7
    assert numbers(registry)["gaps_count", ""] == 1
