"""An engine that gives memory back and runs again: the same tokens, nothing old in its cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.protocol.calls import ALL_MEMORY, MemoryTag
from headrace.protocol.config import EngineConfig
from headrace.workers.build import build_engine, build_runner
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.engine.runner import Runner
from headrace.workers.process.engine_memory import EngineMemory
from tests.workers.driving import request, run
from tests.workers.engine.stateful import StatefulRunner
from tests.workers.tiny_models import MODELS, save_model

PROMPT = list(range(3, 43))
SIZE: dict[str, Any] = {"vocab_size": 100, "max_model_len": 128, "num_blocks": 32, "block_size": 16}


def stateful() -> EngineMemory:
    def load() -> Runner:
        return StatefulRunner(num_state_slots=6, **SIZE)

    engine = assemble_engine(load(), max_num_seqs=4, max_num_batched_tokens=64)
    return EngineMemory(engine, load)


def fake() -> EngineMemory:
    engine = assemble_engine(FakeRunner(**SIZE), max_num_seqs=4, max_num_batched_tokens=64)
    return EngineMemory(engine, lambda: FakeRunner(**SIZE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config_name, class_name, options = MODELS["llama"]
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_model(path, config_name, class_name, options)
    return path


def real(folder: Path, kernels: str) -> EngineMemory:
    config = EngineConfig(
        dtype="float32", threads=1, kv_cache_bytes=2**21, max_num_seqs=4, cpu_kernels=kernels
    )

    def load() -> Runner:
        return build_runner(folder, config, 1, print)

    return EngineMemory(build_engine(folder, config, 1, print), load)


@pytest.fixture(params=["fake", "stateful", "torch", "auto"])
def make(request: pytest.FixtureRequest, folder: Path) -> Callable[[], EngineMemory]:
    without_model = {"fake": fake, "stateful": stateful}
    return without_model.get(request.param) or (lambda: real(folder, request.param))


def answer(residence: EngineMemory, name: str) -> tuple[list[int], int]:
    """Its tokens, and how many of the prompt were found in the cache."""
    found = run(residence.engine, [(0, request(name, PROMPT, max_tokens=12))])[name]
    assert found.outputs[0].admission is not None
    return found.tokens, found.outputs[0].admission.cached_tokens


@pytest.mark.parametrize("level", [1, 2])
def test_the_text_is_the_same_and_the_cache_is_empty(
    make: Callable[[], EngineMemory], level: int
) -> None:
    residence = make()
    text, _ = answer(residence, "first")
    assert answer(residence, "second") == (text, 32)
    steps = residence.engine.stats().steps
    blocks = residence.engine.stats().blocks_total
    for cycle in range(3):
        residence.sleep(level)
        residence.sleep(1)
        assert residence.missing == set(ALL_MEMORY)
        residence.wake(ALL_MEMORY)
        residence.wake(ALL_MEMORY)
        assert not residence.missing
        assert answer(residence, f"after {cycle}") == (text, 0)
    stats = residence.engine.stats()
    assert stats.steps > steps
    assert (stats.blocks_total, stats.blocks_used) == (blocks, 0)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("order", [ALL_MEMORY, ALL_MEMORY[::-1]])
def test_parts_come_back_in_any_order(
    make: Callable[[], EngineMemory], level: int, order: tuple[MemoryTag, ...]
) -> None:
    residence = make()
    text, _ = answer(residence, "before")
    residence.sleep(level)
    residence.wake(order[:1])
    assert residence.missing == set(order[1:])
    residence.wake(order[1:])
    assert not residence.missing
    assert answer(residence, "after") == (text, 0)


def test_sleep_becomes_deeper_and_a_part_may_go_again(make: Callable[[], EngineMemory]) -> None:
    residence = make()
    text, _ = answer(residence, "before")
    residence.sleep(1)
    residence.sleep(2)
    residence.wake(["kv_cache"])
    residence.sleep(1)
    assert residence.missing == set(ALL_MEMORY)
    residence.wake(["weights"])
    assert residence.missing == {"kv_cache"}
    residence.wake(["kv_cache"])
    assert answer(residence, "after") == (text, 0)


def test_what_fails_is_still_missing() -> None:
    residence = fake()
    failures = [MemoryError(), MemoryError()]

    def load() -> Runner:
        raise failures.pop()

    residence = EngineMemory(residence.engine, load)
    residence.sleep(2)
    for _ in range(2):
        with pytest.raises(MemoryError):
            residence.wake(ALL_MEMORY)
        assert residence.missing == set(ALL_MEMORY)


def test_prefixes_are_forgotten_while_requests_run() -> None:
    engine = fake().engine
    first = request("first", PROMPT, max_tokens=60)

    def forget(step: int) -> None:
        if step == 5:
            engine.reset_prefix_cache()

    second = request("second", PROMPT, max_tokens=2)
    answers = run(engine, [(0, first), (30, second)], forget)
    assert answers["second"].outputs[0].admission is not None
    assert answers["second"].outputs[0].admission.cached_tokens == 0
    alone = fake().engine
    assert answers["first"].tokens == run(alone, [(0, first)])["first"].tokens
