"""Blocks of a file become the numbers that the gguf package reads from them."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from headrace.workers.quantized.formats import BLOCK_FORMATS, FLOAT_FORMATS
from headrace.workers.quantized.tensor import (
    QuantizedTensor,
    attach_quantized,
    quantized_of,
    row_bytes,
)

INPUTS = 512


def random_bytes(name: str, outputs: int, inputs: int = INPUTS) -> npt.NDArray[np.uint8]:
    """Blocks of random codes and random, finite scales."""
    generator = np.random.default_rng(7)
    data = generator.integers(0, 256, (outputs, row_bytes(name, inputs)), dtype=np.uint8)
    if name in FLOAT_FORMATS:
        numbers = torch.from_numpy(generator.standard_normal((outputs, inputs)))
        return numbers.to(FLOAT_FORMATS[name]).view(torch.uint8).numpy()
    spec = BLOCK_FORMATS[name]
    blocks = data.reshape(outputs, -1, spec.num_bytes)
    if name == "mxfp4":
        blocks[..., 0] = generator.integers(110, 125, blocks.shape[:-1])
        return data
    for start in {"q6_k": [208], "q4_0": [0], "q5_0": [0], "q8_0": [0], "iq4_nl": [0]}.get(
        name, [0, 2]
    ):
        scales = generator.uniform(-0.02, 0.02, (*blocks.shape[:-1], 1)).astype(np.float16)
        blocks[..., start : start + 2] = scales.view(np.uint8)
    return data


@pytest.mark.parametrize("name", [*(n for n in BLOCK_FORMATS if n != "q8_m"), *FLOAT_FORMATS])
def test_numbers_are_those_of_the_gguf_package(name: str) -> None:
    data = random_bytes(name, 6)
    expected = quants.dequantize(data, GGMLQuantizationType[name.upper()])
    weight = QuantizedTensor(name, (6, INPUTS), data)
    assert torch.equal(weight.dequantize(), torch.from_numpy(expected.reshape(6, INPUTS)))
    assert torch.equal(weight.dequantize(2, 3), torch.from_numpy(expected.reshape(6, INPUTS)[2:5]))


def test_rows_are_taken_in_any_order() -> None:
    weight = QuantizedTensor("q5_k", (6, INPUTS), random_bytes("q5_k", 6))
    whole = weight.dequantize()
    assert torch.equal(weight.take([4, 0]).dequantize(), whole[[4, 0]])
    assert np.shares_memory(weight.take(slice(1, 3)).data, weight.data)


def test_a_parameter_remembers_its_weight() -> None:
    weight = QuantizedTensor("q8_0", (6, 64), random_bytes("q8_0", 6, 64))
    assert quantized_of(weight.placeholder) is weight
    assert weight.placeholder.shape == (6, 64)
    assert weight.placeholder.untyped_storage().nbytes() == 4
    parameter = torch.nn.Parameter(torch.empty(6, 64))
    assert quantized_of(parameter) is None
    attach_quantized(parameter, weight)
    assert quantized_of(parameter) is weight


def test_bytes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="needs bytes of shape"):
        QuantizedTensor("q4_0", (6, 64), np.zeros((6, 35), np.uint8))
    with pytest.raises(ValueError, match="q2_k cannot be read"):
        QuantizedTensor("q2_k", (6, 256), np.zeros((6, 84), np.uint8))


def test_bytes_with_minimums_are_of_no_file() -> None:
    data = random_bytes("q8_m", 6)
    blocks = data.reshape(6, -1, 36)
    scales, added = (blocks[..., at : at + 2].copy().view(np.float16) for at in (0, 2))
    expected = scales.astype(np.float32) * blocks[..., 4:].view(np.int8) + added
    weight = QuantizedTensor("q8_m", (6, INPUTS), data)
    assert torch.equal(weight.dequantize(), torch.from_numpy(expected.reshape(6, INPUTS)))


def test_numbers_of_another_order() -> None:
    order = np.random.default_rng(1).permutation(INPUTS).astype(np.int32)
    data = random_bytes("q4_0", 6)
    plain = QuantizedTensor("q4_0", (6, INPUTS), data)
    ordered = QuantizedTensor("q4_0", (6, INPUTS), data, order)
    assert torch.equal(ordered.dequantize()[:, order], plain.dequantize())
    assert torch.equal(ordered.take([4, 0]).dequantize(), ordered.dequantize()[[4, 0]])
