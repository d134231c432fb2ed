"""Compiled programs whose weights other workers share: the same numbers, packed once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from headrace.protocol.config import Dtype, EngineConfig, Quantization
from headrace.workers.build import build_runner
from headrace.workers.memory import free_memory
from headrace.workers.native import huge_mapping
from headrace.workers.native.packed_weight import PackedWeight
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.native.weight_memory import SharedWeights, fingerprint_weights
from tests.workers.native.test_native import (
    SHAPES,
    blocks_of,
    load,
    run,
    tokens_of,
)
from tests.workers.native.test_shared_file import NAME, needs_huge_pages
from tests.workers.processors import needs_kernels

FORMS = [
    pytest.param("float32", None, marks=needs_kernels),
    *(
        pytest.param("bfloat16", each, marks=needs_kernels)
        for each in (None, "int8", "int8_dynamic")
    ),
]
pytestmark = needs_huge_pages


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create(NAME)
    yield fd
    free_memory()
    assert os.fstat(fd).st_blocks == 0
    os.close(fd)


@pytest.fixture
def file(memory: int) -> SharedFile:
    return SharedFile(Path(f"/proc/self/fd/{memory}"), NAME)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[PackedWeight]]:
    """The panels that have been packed."""
    done = []
    pack = PackedWeight.pack

    def count(panels: PackedWeight) -> None:
        done.append(panels)
        pack(panels)

    monkeypatch.setattr(PackedWeight, "pack", count)
    yield done
    done.clear()


def logits(compiled: CompiledProgram) -> torch.Tensor:
    tokens = tokens_of(70)
    program = compiled.start(8, 16)
    blocks = blocks_of(len(tokens))
    parts = [run(program, [(tokens, *cut, blocks)]) for cut in ((0, 64), (64, 69), (69, 70))]
    return torch.cat(parts)


@pytest.mark.parametrize(("dtype", "quantization"), FORMS)
@pytest.mark.parametrize("shape", ["deep and odd", "biases", "tied"])
def test_same_numbers_and_packed_once(
    tmp_path: Path,
    file: SharedFile,
    packed: list[PackedWeight],
    shape: str,
    dtype: Dtype,
    quantization: Quantization | None,
) -> None:
    model, hook = load(tmp_path, SHAPES[shape], dtype)
    private = CompiledProgram(model, hook, 2, quantization)
    count = len(packed)
    weights = SharedWeights(file, fingerprint_weights(tmp_path))
    first = CompiledProgram(model, hook, 2, quantization, weights)
    assert (first.memory.note, len(packed)) == ("shared", 2 * count)
    second = CompiledProgram(model, hook, 2, quantization, weights)
    assert (second.memory.note, len(packed)) == ("shared, packed before", 2 * count)
    assert private.weight_bytes == first.weight_bytes == second.weight_bytes
    expected = logits(private)
    assert torch.equal(logits(first), expected)
    del first
    packed.clear()
    assert torch.equal(logits(second), expected)


@needs_kernels
def test_other_weights_are_not_taken_for_these(tmp_path: Path, file: SharedFile) -> None:
    model, hook = load(tmp_path, {})
    before = fingerprint_weights(tmp_path)
    kept = CompiledProgram(model, hook, 1, None, SharedWeights(file, before))
    assert kept.memory.is_shared
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert fingerprint_weights(tmp_path) != before
    other = CompiledProgram(
        model, hook, 1, None, SharedWeights(file, fingerprint_weights(tmp_path))
    )
    assert other.memory.note == "not shared: other workers use it with other weights"
    assert torch.equal(logits(other), logits(kept))


@needs_kernels
def test_without_huge_pages_a_worker_has_weights_of_its_own(
    tmp_path: Path, file: SharedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_mapping, "_advise", lambda *_: -1)
    model, hook = load(tmp_path, {})
    compiled = CompiledProgram(
        model, hook, 1, None, SharedWeights(file, fingerprint_weights(tmp_path))
    )
    assert not compiled.memory.is_shared
    assert torch.equal(logits(compiled), logits(CompiledProgram(model, hook, 1)))


@needs_kernels
def test_runner_says_what_it_shares_and_takes_it_along(
    tmp_path: Path, file: SharedFile, memory: int
) -> None:
    load(tmp_path, {})
    config = EngineConfig(kv_cache_bytes=2**20, dtype="float32")
    lines: list[str] = []
    runner = build_runner(tmp_path, config, 1, lines.append, shared_file=file)
    assert any(line.endswith("float32, shared") for line in lines)
    assert os.fstat(memory).st_blocks * 512 >= (runner.weight_bytes or 0) > 0


@needs_kernels
def test_weights_that_change_while_they_are_read_are_not_shared(
    tmp_path: Path, file: SharedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tmp_path, {})
    stamps = iter("ab")
    monkeypatch.setattr("headrace.workers.load_runner.fingerprint_weights", lambda _: next(stamps))
    config = EngineConfig(kv_cache_bytes=2**20, dtype="float32")
    lines: list[str] = []
    build_runner(tmp_path, config, 1, lines.append, shared_file=file)
    assert any(line.endswith("float32, not shared") for line in lines)
