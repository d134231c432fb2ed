"""Compiled code expands and arranges blocks as numpy does."""

import numpy as np
import pytest
import torch

from headrace.workers.quantized import decoder_library
from headrace.workers.quantized.blocks import read_blocks
from headrace.workers.quantized.decoder_library import FORMATS, decode_rows, pack_rows
from headrace.workers.quantized.formats import BLOCK
from headrace.workers.quantized.panels import pack_panels, panel_bytes
from tests.workers.quantized.test_tensor import INPUTS, random_bytes

pytestmark = pytest.mark.skipif(decoder_library._load() is None, reason="the library is not built")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers(name: str, dtype: torch.dtype) -> None:
    data = random_bytes(name, 9)
    numbers = torch.empty((9, INPUTS), dtype=dtype)
    assert decode_rows(name, data, numbers)
    assert torch.equal(numbers, read_blocks(name, data).dequantize().to(dtype))


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "mxfp4"])
def test_panels(name: str) -> None:
    data = random_bytes(name, 96)
    expected = np.zeros((3, panel_bytes(name, INPUTS // BLOCK)), np.uint8)
    pack_panels(read_blocks(name, data), expected)
    packed = np.zeros_like(expected)
    assert pack_rows(name, data, packed)
    np.testing.assert_array_equal(packed, expected)


def test_what_it_does_not_know_is_left_to_numpy() -> None:
    data = random_bytes("mxfp4", 32)
    panels = np.zeros((1, panel_bytes("mxfp4", INPUTS // BLOCK)), np.uint8)
    assert not pack_rows("mxfp4", data, panels)
    assert not decode_rows("q8_0", random_bytes("q8_0", 1), torch.empty(1, 512, dtype=torch.half))
    short = np.zeros((1, panel_bytes("q4_k", 8)), np.uint8)
    assert not pack_rows("q4_k", random_bytes("q4_k", 32), short)
