"""Starts of embedders from the cache: the same numbers as a fresh capture, without transformers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.protocol.common.pooling.pooler_config import PoolerConfig
from headrace.protocol.config import EngineConfig
from headrace.protocol.to_frontend import Pooled
from headrace.workers.errors import ModelUnsupported
from headrace.workers.pooling.build import build_pooling_engine
from headrace.workers.pooling.engine import PoolingEngine
from tests.workers.pooling.driving import encode, run
from tests.workers.pooling.test_adapters import CASES, make
from tests.workers.pooling.test_encoders import PAD, SHAPES, save, texts, write_modules
from tests.workers.processors import needs_kernels

pytestmark = needs_kernels

FROM_CACHE = "program from the cache"
TEXTS = [*texts(3), [7, PAD, 9, PAD, 11]]
_START = """
import sys
from pathlib import Path
from headrace.protocol.config import EngineConfig
from headrace.workers.pooling.build import build_pooling_engine
model, cache = map(Path, sys.argv[1:])
config = EngineConfig(runner="pooling", dtype="float32", threads=1)
build_pooling_engine(model, config, 1, print, cache_folder=cache)
print("transformers" in sys.modules)
"""


def start(folder: Path, **options: Any) -> tuple[PoolingEngine, bool]:
    """An engine, and whether its program was cached."""
    config = EngineConfig(**{"runner": "pooling", "dtype": "float32", "threads": 1, **options})
    lines: list[str] = []
    engine = build_pooling_engine(
        folder / "model", config, 1, lines.append, cache_folder=folder / "cache"
    )
    return engine, any(FROM_CACHE in line for line in lines)


def numbers_of(engine: PoolingEngine, adapter: str = "") -> list[Pooled | None]:
    requests = [encode(str(n), ids, adapter=adapter) for n, ids in enumerate(TEXTS)]
    found = run(engine, requests)
    return [found[str(n)].pooled for n in range(len(TEXTS))]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("bert", "roberta", "distilbert", "modernbert", "qwen3")),
        ("bert", {"dtype": "bfloat16"}),
        ("bert", {"quantization": "int8"}),
    ],
)
def test_the_same_numbers(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "model", name)
    write_modules(tmp_path / "model", ["Transformer", "Pooling"], {"pooling_mode": "mean"})
    first, was_cached = start(tmp_path, **options)
    assert not was_cached
    again, was_cached = start(tmp_path, **options)
    assert was_cached
    assert numbers_of(again) == numbers_of(first)
    assert again.tasks == first.tasks
    assert again.runner.limits == first.runner.limits


def test_options_that_no_program_depends_on(tmp_path: Path) -> None:
    save(tmp_path / "model", "bert")
    start(tmp_path)
    pooler = PoolerConfig(enable_chunked_processing=True, max_embed_len=500)
    engine, was_cached = start(tmp_path, max_model_len=20, pooler_config=pooler)
    assert was_cached
    assert (engine.runner.limits.max_model_len, engine.runner.limits.max_embed_len) == (20, 500)
    with pytest.raises(ModelUnsupported, match="max_model_len is 500"):
        start(tmp_path, max_model_len=500)


def test_adapters_of_a_cached_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = make(tmp_path, CASES["bert"], monkeypatch, count=1)
    found = []
    for is_cached in (False, True):
        engine, was_cached = start(tmp_path, enable_lora=True)
        assert was_cached == is_cached
        engine.add_adapter("a0", adapters["a0"])
        found.append(numbers_of(engine, "a0"))
    assert found[0] == found[1] != numbers_of(engine)


def test_classifiers_are_loaded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _, options, varlen = SHAPES["bert"]
    head = "BertForSequenceClassification"
    monkeypatch.setitem(SHAPES, "bert", (config, head, options, varlen))
    save(tmp_path / "model", "bert")
    assert [start(tmp_path)[1] for _ in range(2)] == [False, False]


def test_a_cached_start_imports_no_transformers(tmp_path: Path) -> None:
    save(tmp_path / "model", "bert")
    start(tmp_path)
    command = [sys.executable, "-c", _START, str(tmp_path / "model"), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert FROM_CACHE in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
