"""A text's logits are the same to the last bit whatever else its steps did.

So seeds, replays and prefix hits draw the same tokens, too: none of them may change a text.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.protocol.config import CpuKernels, Dtype, KernelSet, Quantization
from headrace.workers.attention.cache_dtype import CacheDtype
from headrace.workers.native.program import CompiledProgram
from tests.workers.native.test_native import SHAPES, blocks_of, load, run, tokens_of
from tests.workers.processors import needs_kernels, on_each_set, on_slower_sets

WINDOW = {"config": "MistralConfig", "model": "MistralForCausalLM"}
KINDS: list[tuple[Dtype, Quantization | None]] = [
    ("float32", None),
    ("bfloat16", None),
    ("bfloat16", "int8"),
    ("float32", "int8_dynamic"),
    ("bfloat16", "int8_dynamic"),
    ("float32", "q8_0"),
    ("bfloat16", "q4_1"),
]


def alone(
    compiled: CompiledProgram, tokens: list[int], start: int, cache: CacheDtype | None = None
) -> torch.Tensor:
    """Logits of the rows from `start` on, of one step for each."""
    program = compiled.start(300, 16, cache)
    blocks = blocks_of(len(tokens))
    run(program, [(tokens, 0, start, blocks)])
    rows = range(start, len(tokens))
    return torch.cat([run(program, [(tokens, row, row + 1, blocks)]) for row in rows])


def in_company(
    compiled: CompiledProgram, tokens: list[int], start: int, cache: CacheDtype | None = None
) -> torch.Tensor:
    """The same rows of steps cut elsewhere, each with those of other texts before and behind."""
    program = compiled.start(300, 16, cache)
    length = len(tokens)
    blocks = blocks_of(length, 40)
    others = [tokens_of(n, n) for n in (9, 70, 333)]
    firsts = (0, 10, 200)
    found = []
    cuts = [0, 1, start // 3, start // 3 + 7, start, start + 3, length]
    for step, (begin, end) in enumerate(itertools.pairwise(cuts)):
        around = [
            (text, step, len(text) - 6 + step, blocks_of(len(text), first))
            for text, first in zip(others, firsts, strict=True)
        ]
        at = sum(stop - go for _, go, stop, _ in around[:2])
        logits = run(program, [*around[:2], (tokens, begin, end, blocks), around[2]])
        found.append(logits[at : at + end - begin])
    return torch.cat(found)[start:]


def assert_same(
    folder: Path,
    length: int,
    start: int,
    kind: tuple[Dtype, Quantization | None],
    options: dict[str, Any],
    cache: CacheDtype | None = None,
    **architecture: Any,
) -> None:
    dtype, quantization = kind
    model, hook = load(folder, {**options, "max_position_embeddings": 4096}, dtype, **architecture)
    tokens = tokens_of(length)
    one = CompiledProgram(model, hook, 1, quantization)
    expected = alone(one, tokens, start, cache)
    assert torch.equal(in_company(one, tokens, start, cache), expected)
    three = CompiledProgram(model, hook, 3, quantization)
    assert torch.equal(alone(three, tokens, start, cache), expected)
    assert torch.equal(in_company(three, tokens, start, cache), expected)


@needs_kernels
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", ["deep and odd", "many queries to a key", "scores far apart"])
def test_whatever_the_batch_the_cuts_and_the_threads(
    tmp_path: Path, shape: str, kind: tuple[Dtype, Quantization | None]
) -> None:
    assert_same(tmp_path, 701, 690, kind, SHAPES[shape])


@on_slower_sets
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", ["deep and odd", "many queries to a key", "scores far apart"])
def test_on_each_set(
    tmp_path: Path, shape: str, kind: tuple[Dtype, Quantization | None], kernel_set: CpuKernels
) -> None:
    options = dict(SHAPES[shape])
    if shape == "deep and odd" and kind != KINDS[0]:
        options["intermediate_size"] = 700  # others have parts as soon, and are slow in plain C++
    assert_same(tmp_path, 301, 296, kind, options)


@on_each_set
@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_over_parts_of_all_lengths(tmp_path: Path, kind: tuple[Dtype, Quantization | None]) -> None:
    assert_same(tmp_path, 2400, 2390, kind, {"num_hidden_layers": 1})


@on_each_set
@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
@pytest.mark.parametrize("window", [5, 100, 700])
def test_with_windows(tmp_path: Path, window: int, kind: tuple[Dtype, Quantization | None]) -> None:
    assert_same(tmp_path, 901, 880, kind, {"sliding_window": window}, None, **WINDOW)


@on_each_set
@pytest.mark.parametrize("cache", ["int8", "fp8"])
def test_with_caches_of_8_bits(tmp_path: Path, cache: CacheDtype, kernel_set: KernelSet) -> None:
    assert_same(tmp_path, 301, 290, KINDS[1], SHAPES["deep and odd"], cache)


@needs_kernels
@pytest.mark.parametrize("cache", ["bfloat16", "int8", "fp8"])
def test_with_other_caches_in_parts_of_all_lengths(tmp_path: Path, cache: CacheDtype) -> None:
    assert_same(tmp_path, 2400, 2390, KINDS[0], {"num_hidden_layers": 1}, cache)


@needs_kernels
@pytest.mark.parametrize("cache", ["int8", "fp8"])
def test_with_caches_of_8_bits_and_windows(tmp_path: Path, cache: CacheDtype) -> None:
    assert_same(tmp_path, 501, 490, KINDS[1], {"sliding_window": 100}, cache, **WINDOW)
