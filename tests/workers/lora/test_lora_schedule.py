"""How many adapters a batch has, and who waits for whom: nobody for ever."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.protocol.to_worker import Generate
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.lora.fake import FakeAdapters
from headrace.workers.sequence.sequence import Chunk, ChunkResult
from tests.workers.driving import request, run

ADAPTERS = "abcd"


class Known(FakeAdapters):
    """Has some adapters without folders."""

    def __init__(self) -> None:
        super().__init__()
        self._checksums = {name: number for number, name in enumerate(ADAPTERS, 1)}


class Watched(FakeRunner):
    """Sees to it that no step has too many adapters."""

    max_loras = 1

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        assert len({chunk.sequence.request.adapter for chunk in chunks} - {""}) <= self.max_loras
        return super().run(chunks)


def make_engine(max_loras: int = 2, num_blocks: int = 64, **options: Any) -> Engine:
    runner = Watched(vocab_size=50, max_model_len=48, num_blocks=num_blocks, block_size=4)
    runner.max_loras = max_loras
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": 16, **options}
    return assemble_engine(runner, adapters=Known(), max_loras=max_loras, **limits)


def asked(name: str, adapter: str, length: int = 3, max_tokens: int = 8, **fields: Any) -> Generate:
    prompt = [sum(map(ord, name)) % 50] * length
    return replace(request(name, prompt, max_tokens=max_tokens), adapter=adapter, **fields)


def running(engine: Engine) -> list[str]:
    return [each.request.request_id for each in engine._scheduler.running]


def test_one_too_many_waits_and_only_the_base_model_passes_it() -> None:
    engine = make_engine()
    for name, adapter in (("1", "a"), ("2", "b"), ("3", "c"), ("4", ""), ("5", "a"), ("6", "")):
        engine.add(asked(name, adapter, max_tokens=4 if name == "1" else 30))
    engine.step()
    assert running(engine) == ["1", "2", "4", "6"]
    engine.add(asked("7", ""))
    engine.add(asked("8", "b"))
    for _ in range(3):
        engine.step()
    assert running(engine)[:3] == ["2", "4", "6"]
    assert not {"3", "5", "8"} & set(running(engine))
    for _ in range(4):
        engine.step()
        assert not {"5", "8"} & set(running(engine))  # b runs, but 8 is behind 5
    assert "3" in running(engine)
    run_out(engine)


def test_requests_of_adapters_in_the_batch_join_it() -> None:
    engine = make_engine(max_loras=1)
    for name in "12345":
        engine.add(asked(name, "a"))
    engine.step()
    assert running(engine) == list("12345")


def test_whoever_is_passed_ages_meanwhile() -> None:
    """Requests that overtake it do not count as served of its class."""
    engine = make_engine(max_loras=1)
    waiting = engine._scheduler._waiting
    engine.add(asked("1", "a"))
    engine.step()
    engine.add(asked("2", "b", priority=3))
    since_s = waiting._classes[3].since_s
    engine.add(asked("3", "", priority=3))
    engine.step()
    assert running(engine) == ["1", "3"]
    assert waiting._classes[3].since_s == since_s


def test_no_room_is_made_for_who_cannot_take_it() -> None:
    """A tenant's only request would get one of a full batch, but its adapter is one too many."""
    engine = make_engine(max_loras=1, max_num_seqs=4)
    for name in "1234":
        engine.add(asked(name, "a", tenant="much", max_tokens=20))
    for _ in range(4):
        engine.step()
    engine.add(asked("5", "b", tenant="little"))
    for _ in range(4):
        engine.step()
        assert running(engine) == list("1234")
    engine.add(asked("6", "", tenant="less"))
    engine.step()
    assert "6" in running(engine)
    assert engine.stats().preemptions == 1
    run_out(engine)


def run_out(engine: Engine) -> None:
    for _ in range(1000):
        if not engine.has_work:
            return
        engine.step()
    raise AssertionError("the engine makes no progress")


floods = st.lists(
    st.tuples(
        st.sampled_from(["", "a", "b", "c"]),  # adapter
        st.sampled_from(["much", "more"]),  # tenant
        st.integers(1, 30),  # prompt
        st.integers(1, 16),  # output
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(
    floods,
    st.integers(1, 3),
    st.integers(12, 40),
    st.integers(1, 6),
    st.sampled_from(["much", "little"]),
)
def test_nobody_starves(
    flood: list[tuple[str, str, int, int]],
    max_loras: int,
    num_blocks: int,
    batch_size: int,
    tenant: str,
) -> None:
    """However full the engine is kept of others with other adapters, a request is served."""
    engine = make_engine(max_loras, num_blocks, max_num_seqs=batch_size)
    numbers = count()

    def refill() -> None:
        while len(engine._sequences) < 12:
            number = next(numbers)
            adapter, owner, prompt, output = flood[number % len(flood)]
            engine.add(asked(f"f{number}", adapter, prompt, output, tenant=owner))

    refill()
    for _ in range(5):
        engine.step()
    engine.add(asked("late", "d", tenant=tenant, max_tokens=3))
    for _ in range(2000):
        refill()
        ended = {each.request_id for each in engine.step() if each.finish_reason is not None}
        adapters = {each.request.adapter for each in engine._scheduler.running} - {""}
        assert len(adapters) <= max_loras
        if "late" in ended:
            return
    raise AssertionError("it has waited for ever")


requests = st.builds(
    lambda adapter, prompt, output, priority, tenant: (adapter, prompt, output, priority, tenant),
    st.sampled_from(["", *ADAPTERS]),
    st.lists(st.integers(0, 1), min_size=1, max_size=30),
    st.integers(1, 18),
    st.integers(-1, 1),
    st.sampled_from(["much", "much", "little"]),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), requests), min_size=1, max_size=14),
    st.integers(1, 3),
    st.integers(12, 40),
    st.integers(1, 8),
    st.booleans(),
)
def test_texts_depend_on_nothing_but_request_and_adapter(
    script: list[tuple[int, tuple[str, list[int], int, int, str]]],
    max_loras: int,
    num_blocks: int,
    batch_size: int,
    caching: bool,
) -> None:
    engine = make_engine(
        max_loras, num_blocks, max_num_seqs=batch_size, enable_prefix_caching=caching
    )
    arrivals = []
    for number, (step, (adapter, prompt, output, priority, tenant)) in enumerate(script):
        one = request(str(number), prompt, max_tokens=output)
        arrivals.append((step, replace(one, adapter=adapter, priority=priority, tenant=tenant)))
    answers = run(engine, arrivals)
    for _, one in arrivals:
        alone = make_engine(enable_prefix_caching=False)
        text = run(alone, [(0, one)])[one.request_id].tokens
        assert answers[one.request_id].tokens == text
    assert engine._pool.free_count == engine._pool.num_blocks


def test_preempting_all_keeps_the_limit() -> None:
    engine = make_engine(max_loras=2)
    for number in range(8):
        engine.add(asked(str(number), ADAPTERS[number % 4], max_tokens=6))
    for _ in range(30):
        engine.reset_prefix_cache(recompute_running=True)
        engine.step()
        engine.step()
    assert not engine.has_work


@pytest.mark.parametrize("max_loras", [1, 2])
def test_a_removed_adapters_request_ends_first(max_loras: int) -> None:
    engine = make_engine(max_loras)
    answers = run(engine, [(0, asked(name, name)) for name in ADAPTERS])
    assert all(len(answer.tokens) == 8 for answer in answers.values())
    for name in ADAPTERS:
        engine.remove_adapter(name)
    assert not engine.adapter_ids
