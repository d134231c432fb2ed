"""Adapters of an engine that sleeps: they stay, come and go, and take no memory of the device."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from headrace.protocol.calls import ALL_MEMORY
from headrace.workers.build import build_runner
from headrace.workers.errors import AdapterError
from headrace.workers.process.engine_memory import EngineMemory
from tests.workers.driving import run
from tests.workers.lora.lora_engines import (
    Tiny,
    adapted,
    make_prompts,
    make_tiny,
)
from tests.workers.processors import KERNELS, use_kernels

KINDS: dict[str, dict[str, Any]] = {
    "usual": {"rank": 8},
    "wide": {"rank": 16, "targets": "all-linear"},
}
PROMPT = make_prompts(1, 20)[0]


@pytest.fixture(scope="module", params=[KERNELS[0], "torch"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    use_kernels(request.param)
    return make_tiny(tmp_path_factory.mktemp("llama"), "llama", KINDS, request.param)


def engine_memory(tiny: Tiny) -> EngineMemory:
    config = tiny.config()
    return EngineMemory(
        tiny.engine(), lambda: build_runner(tiny.path, config, 1, lambda line: None)
    )


def check(tiny: Tiny, memory: EngineMemory, *names: str) -> None:
    arrivals = [(0, adapted(name, PROMPT, name)) for name in ("", *names)]
    answers = run(memory.engine, arrivals)
    for _, one in arrivals:
        tiny.check(one.adapter, PROMPT, answers[one.request_id].tokens)


def test_adapters_outlast_any_sleep(tiny: Tiny) -> None:
    memory = engine_memory(tiny)
    for level in (1, 2, 1):
        check(tiny, memory, *KINDS)
        memory.sleep(level)
        memory.wake(ALL_MEMORY)
        assert memory.engine.adapter_ids == set(KINDS)
    check(tiny, memory, *KINDS)


def test_slots_are_given_back(tiny: Tiny) -> None:
    memory = engine_memory(tiny)
    check(tiny, memory, *KINDS)
    engine: Any = memory.engine
    slots = engine.runner._slots
    assert not slots.is_empty
    memory.sleep(1)
    assert slots.is_empty


@pytest.mark.parametrize("level", [1, 2])
def test_they_come_and_go_meanwhile(tiny: Tiny, level: int, tmp_path: Path) -> None:
    memory = engine_memory(tiny)
    engine = memory.engine
    engine.remove_adapter("wide")
    check(tiny, memory, "usual")
    memory.sleep(level)
    engine.remove_adapter("usual")
    engine.add_adapter("wide", tiny.adapters["wide"])
    with pytest.raises(AdapterError, match=r"has no adapter_config\.json"):
        engine.add_adapter("none", tmp_path)
    assert engine.adapter_ids == {"wide"}
    memory.wake(ALL_MEMORY)
    check(tiny, memory, "wide")
    engine.add_adapter("usual", tiny.adapters["usual"])
    check(tiny, memory, *KINDS)


def test_its_folder_may_go_once_it_is_there(tiny: Tiny, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny.adapters["usual"], copy)
    memory = engine_memory(Tiny(tiny.path, {}))
    memory.engine.add_adapter("usual", copy)
    shutil.rmtree(copy)
    memory.sleep(2)
    memory.wake(ALL_MEMORY)
    check(tiny, memory, "usual")
