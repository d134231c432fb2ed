"""Weights become the bytes that the gguf package makes of them."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from headrace.workers.quantized.encode import ENCODERS, quantize


def weights(outputs: int, inputs: int) -> torch.Tensor:
    """Numbers of many sizes, with blocks of zeros, of ties and of one outlier."""
    generator = torch.Generator().manual_seed(3)
    numbers = torch.randn((outputs, inputs), generator=generator)
    numbers *= torch.logspace(-5, 2, outputs)[:, None]
    numbers[0, :32] = 0.0
    numbers[1, :32] = torch.tensor([1.0, -1.0] * 16)
    numbers[2, :32] = torch.tensor([-1.0, 1.0, 0.5, -0.5] * 8)
    numbers[3, 5] = 1e4
    return numbers


@pytest.mark.parametrize("name", ENCODERS)
def test_bytes_are_those_of_the_gguf_package(name: str) -> None:
    numbers = weights(64, 256)
    expected = quants.quantize(numbers.numpy(), GGMLQuantizationType[name.upper()])
    assert np.array_equal(quantize(name, numbers).data, expected)
    rounded = numbers.bfloat16()
    expected = quants.quantize(rounded.float().numpy(), GGMLQuantizationType[name.upper()])
    assert np.array_equal(quantize(name, rounded).data, expected)


@pytest.mark.parametrize("name", ENCODERS)
def test_rows_are_filled_up_to_whole_blocks(name: str) -> None:
    numbers = weights(5, 70)
    quantized = quantize(name, numbers)
    assert quantized.shape == (5, 70)
    padded = quantize(name, torch.nn.functional.pad(numbers, (0, 26)))
    assert torch.equal(quantized.dequantize(), padded.dequantize()[:, :70])
    # A scale is held in 16 bits, so that a step may be larger by 2**-11 for each of its 127.
    steps = padded.dequantize().abs().amax(dim=1) / {"4": 7, "5": 15, "8": 120}[name[1]]
    errors = (quantized.dequantize() - numbers).abs().amax(dim=1)
    assert (errors[1:] <= steps[1:]).all()
