"""Adapters of the fake engine: other tokens, the same in every worker, by what the adapter is."""

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.protocol.config import EngineConfig
from headrace.workers.build import build_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.errors import AdapterError, RejectedByEngine
from tests.workers.driving import run
from tests.workers.lora.lora_engines import adapted

PROMPT = tuple(range(5, 25))


def write(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    return folder


def fake(model: Path, **options: Any) -> Engine:
    config = EngineConfig(engine="fake", enable_lora=True, **options)
    return build_engine(model, config, 1, lambda line: None)


def text(engine: Engine, adapter: str) -> list[int]:
    return run(engine, [(0, adapted("r", PROMPT, adapter))])["r"].tokens


def test_texts_depend_on_the_adapters_content_alone(fake_model: Path, tmp_path: Path) -> None:
    one, other = fake(fake_model), fake(fake_model)
    without = build_engine(fake_model, EngineConfig(engine="fake"), 1, lambda line: None)
    one.add_adapter("a1", write(tmp_path / "a", r=8))
    one.add_adapter("b1", write(tmp_path / "b", r=16))
    other.add_adapter("b2", tmp_path / "b")
    other.add_adapter("a2", write(tmp_path / "copy", r=8))
    assert text(one, "a1") == text(other, "a2")
    assert text(one, "b1") == text(other, "b2")
    assert text(one, "") == text(other, "") == text(without, "")
    assert len({tuple(text(one, name)) for name in ("", "a1", "b1")}) == 3


def test_it_refuses_as_the_real_one(fake_model: Path, tmp_path: Path) -> None:
    engine = fake(fake_model)
    (tmp_path / "adapter_config.json").write_text("[]")
    for folder, reason in ((tmp_path, "not a JSON object"), (tmp_path / "b", "has no adapter_con")):
        with pytest.raises(AdapterError, match=reason):
            engine.add_adapter("a", folder)
    with pytest.raises(RejectedByEngine, match="adapter is not loaded") as caught:
        text(engine, "a")
    assert caught.value.retry_elsewhere
    assert engine.adapter_ids == frozenset()
