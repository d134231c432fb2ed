"""8-bit weights: how they round, and that integer products are those of what they stand for."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.workers.linear.quantization import (
    dequantize_weight,
    int8_dynamic_product,
    int8_product,
    quantize_weight,
)
from tests.workers.processors import needs_int8

SIZES = st.integers(1, 70)
Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
SEEDS = st.integers(0, 2**32 - 1)


def tensors(seed: int, rows: int, outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [rows, inputs] and a weight [outputs, inputs] whose channels differ in size."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-3, 3, outputs).unsqueeze(1)
    weight = torch.randn((outputs, inputs), generator=generator) * sizes
    return torch.randn((rows, inputs), generator=generator), weight


@settings(deadline=None, max_examples=40)
@given(SEEDS, SIZES, SIZES)
def test_each_weight_is_within_half_a_step(seed: int, outputs: int, inputs: int) -> None:
    _, weight = tensors(seed, 1, outputs, inputs)
    values, scales = quantize_weight(weight)
    assert (values.dtype, scales.dtype) == (torch.int8, torch.float32)
    assert (values.shape, scales.shape) == (weight.shape, (outputs,))
    off = (dequantize_weight(values, scales) - weight).abs()
    assert bool((off <= 0.5001 * scales.unsqueeze(1)).all())
    assert bool((values.int().abs().amax(dim=1) == 127).all())


def test_channels_of_zeros_stay_zero() -> None:
    values, scales = quantize_weight(torch.zeros(3, 5))
    assert not values.any()
    assert scales.tolist() == [1, 1, 1]
    assert not int8_product(torch.ones(2, 5), values, scales).any()


@needs_int8
@pytest.mark.parametrize("product", [int8_product, int8_dynamic_product])
@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, rows=st.integers(0, 40), outputs=SIZES, inputs=st.integers(2, 70))
def test_products_are_those_of_the_dequantized_weight(
    product: Multiply, seed: int, rows: int, outputs: int, inputs: int
) -> None:
    left, weight = tensors(seed, rows, outputs, inputs)
    given = left.clone()
    values, scales = quantize_weight(weight)
    exact = left.double() @ dequantize_weight(values, scales).double().t()
    ours = product(left, values, scales)
    assert torch.equal(left, given), "the rows are the model's"
    # A row is rounded by at most half a step; its product by that times the channel's magnitudes.
    steps = 127 if product is int8_dynamic_product else 127 * 254
    largest = left.abs().amax(dim=1, keepdim=True) if rows else left.new_zeros((0, 1))
    channels = dequantize_weight(values, scales).abs().sum(dim=1)
    bound = (0.5 / steps + 1e-6) * largest * channels
    assert bool(((ours - exact).abs() <= bound).all())


@needs_int8
@pytest.mark.parametrize("product", [int8_product, int8_dynamic_product])
def test_a_row_does_not_depend_on_the_others(product: Multiply) -> None:
    rows, weight = tensors(3, 33, 48, 64)
    rows[5] *= 1000
    values, scales = quantize_weight(weight)
    together = product(rows, values, scales)
    alone = torch.cat([product(row, values, scales) for row in torch.split(rows, 1)])
    assert torch.equal(together, alone)


@needs_int8
def test_many_rows_in_bfloat16_give_what_few_give() -> None:
    rows, weight = tensors(4, 70, 300, 64)
    rows = rows.bfloat16()
    values, scales = quantize_weight(weight)
    many = int8_product(rows, values, scales)
    few = torch.cat([int8_product(some, values, scales) for some in torch.split(rows, 7)])
    spread = weight.square().sum(dim=1).sqrt()
    assert float(((many - few) / spread).abs().max()) < 0.02


def test_rows_of_zeros_give_zeros() -> None:
    _, weight = tensors(1, 1, 16, 32)
    for product in (int8_product, int8_dynamic_product):
        assert not product(torch.zeros(2, 32), *quantize_weight(weight)).any()


@needs_int8
def test_of_the_rows_16_bits_are_kept() -> None:
    rows, weight = tensors(2, 8, 64, 576)
    values, scales = quantize_weight(weight)
    exact = rows.double() @ dequantize_weight(values, scales).double().t()
    errors = [
        float(((product(rows, values, scales) - exact) / exact.std(dim=0)).square().mean().sqrt())
        for product in (int8_product, int8_dynamic_product)
    ]
    assert errors[0] < 1e-4 < 1e-3 < errors[1] < 0.03
