"""Products are run with few numbers of rows: oneDNN keeps code for each number that it has seen."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from headrace.protocol.config import Dtype, EngineConfig
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.linear.linears import prepare_linears
from headrace.workers.linear.row_counts import RoundedRows, round_up_rows, with_rounded_rows
from headrace.workers.torch_runner.loading import load_model
from headrace.workers.torch_runner.model_runner import ModelRunner
from tests.workers.driving import request, run
from tests.workers.processors import needs_int8
from tests.workers.tiny_models import VOCAB, save_tiny

# Operations that oneDNN may compute, with the place of their rows among the arguments.
_PRODUCTS = {
    "aten::mm": 0,
    "aten::addmm": 1,
    "aten::bmm": 0,
    "aten::baddbmm": 1,
    "aten::_int_mm": 0,
    "aten::linear": 0,
    "aten::_grouped_mm": 0,
    "mkldnn::_linear_pointwise": 0,
}
_NARROW = (torch.bfloat16, torch.float16, torch.int8)


class Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the shapes of rows with which products in 16 and 8 bits are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[tuple[str, tuple[int, ...]]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = _PRODUCTS.get(func.name().partition(".")[0])
        if place is not None and args[place].dtype in _NARROW:
            self.seen.add((func.name(), tuple(args[place].shape)))
        return func(*args, **(kwargs or {}))


def test_rounded_numbers_are_few_and_near() -> None:
    rounded = [round_up_rows(count) for count in range(1, 8193)]
    assert all(first <= second for first, second in pairwise(rounded))
    for count, number in enumerate(rounded, 1):
        assert count <= number <= max(count + 3, count * 9 / 8)
        assert round_up_rows(number) == number
    assert len(set(rounded[:512])) == 42
    assert rounded[511] == 512


@given(st.integers(0, 40), st.booleans())
def test_padding_changes_no_result(count: int, is_nested: bool) -> None:
    weight = torch.arange(12.0).view(3, 4)
    rows = torch.arange(count * 4.0).view(*([1] if is_nested else []), count, 4)
    result = with_rounded_rows(lambda padded: functional.linear(padded, weight), rows)
    assert torch.equal(result, functional.linear(rows, weight))


def test_grouped_products_are_what_torch_computes() -> None:
    rows, weights = torch.randn(60, 16).bfloat16(), torch.randn(5, 16, 8).bfloat16()
    ends = torch.tensor([0, 7, 7, 50, 60], dtype=torch.int32)
    expected = functional.grouped_mm(rows, weights, offs=ends)
    with RoundedRows(), Shapes() as shapes:
        result = functional.grouped_mm(rows, weights, offs=ends)
    torch.testing.assert_close(result, expected)
    assert {shape[0] for _, shape in shapes.seen} == {8, 44, 12}


@pytest.mark.parametrize(
    ("name", "dtype", "quantization"),
    [
        ("llama", "bfloat16", None),
        ("gpt2", "float16", None),
        ("gemma2", "bfloat16", None),
        ("mixtral", "bfloat16", None),
        ("qwen2_moe", "bfloat16", None),
        pytest.param("llama", "bfloat16", "int8", marks=needs_int8),
        pytest.param("qwen2", "float32", "int8_dynamic", marks=needs_int8),
    ],
)
def test_prompts_of_new_lengths_need_no_new_products(
    tmp_path: Path, name: str, dtype: Dtype, quantization: Any
) -> None:
    save_tiny(tmp_path, name)
    model = load_model(tmp_path, dtype, torch.device("cpu"))
    hook = AttentionHook()
    with torch.inference_mode():
        hook.probe(model)
    prepare_linears(model, EngineConfig(quantization=quantization), lambda _: None)
    runner = ModelRunner(model, hook, max_model_len=128, num_blocks=64, block_size=4)
    engine = assemble_engine(runner, max_num_seqs=16, max_num_batched_tokens=128)
    with Shapes() as shapes:
        for length in range(1, 100):
            prompt = [length, *(token % VOCAB for token in range(length - 1))]
            run(engine, [(0, request(f"r{length}", prompt, max_tokens=2))])
    assert shapes.seen
    allowed = {round_up_rows(count) for count in range(1, 200)}
    numbers = {(operation, torch.Size(shape[:-1]).numel()) for operation, shape in shapes.seen}
    assert {number for _, number in numbers} <= allowed, sorted(numbers)
