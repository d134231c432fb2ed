"""Quantize weights to blocks, with the rounding of llama.cpp's reference quantizers."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from headrace.workers.quantized.formats import BLOCK, BLOCK_FORMATS
from headrace.workers.quantized.tensor import QuantizedTensor, row_bytes

_Floats = npt.NDArray[np.float32]
_Bytes = npt.NDArray[np.uint8]
_CHUNK_ELEMENTS = 256 * 1024  # quantized at a time, so that what is between stays in the cache


def quantize(name: str, weight: torch.Tensor) -> QuantizedTensor:
    """Quantize a weight [outputs, inputs] of floats; rows are padded with zeros to whole blocks.

    Raises KeyError if there is no quantizer of the format: see ENCODERS.
    """
    outputs, inputs = weight.shape
    result = np.empty((outputs, row_bytes(name, inputs)), np.uint8)
    step = max(1, _CHUNK_ELEMENTS // max(1, inputs))
    for first in range(0, outputs, step):
        rows = weight[first : first + step].detach().float()
        padded = torch.nn.functional.pad(rows, (0, -inputs % BLOCK))
        blocks = padded.contiguous().numpy().reshape(-1, BLOCK)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            encoded = ENCODERS[name](blocks)
        result[first : first + step] = encoded.reshape(len(rows), -1)
    return QuantizedTensor(name, (outputs, inputs), result)


def _inverse(scales: _Floats) -> _Floats:
    return np.where(scales == 0, np.float32(0), np.float32(1) / scales)


def _halves(numbers: _Floats) -> _Bytes:
    """Return the bytes of the numbers in 16 bits."""
    return numbers.astype(np.float16).view(np.uint8)


def _nibbles(codes: _Bytes) -> _Bytes:
    low = codes & np.uint8(15)
    return low[:, : BLOCK // 2] | low[:, BLOCK // 2 :] << np.uint8(4)


def _fifth_bits(codes: _Bytes) -> _Bytes:
    return np.packbits(codes >> np.uint8(4), axis=-1, bitorder="little")


def _q8_0(blocks: _Floats) -> _Bytes:
    scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(scales)
    # Halves away from zero.
    codes = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return np.concatenate([_halves(scales), codes.astype(np.int8).view(np.uint8)], axis=1)


def _symmetric_codes(blocks: _Floats, half: int) -> tuple[_Floats, _Bytes]:
    """Return scales and codes 0 to 2 * half - 1; the number of greatest magnitude becomes 0, its
    sign being the scale's."""
    largest = np.abs(blocks).argmax(axis=1, keepdims=True)
    scales = np.take_along_axis(blocks, largest, axis=1) / np.float32(-half)
    codes = np.trunc(blocks * _inverse(scales) + np.float32(half + 0.5))
    return scales, codes.astype(np.uint8).clip(0, 2 * half - 1)


def _offset_codes(blocks: _Floats, most: int) -> tuple[_Floats, _Floats, _Bytes]:
    """Return scales, the numbers that code 0 stands for, and codes 0 to `most`."""
    least = blocks.min(axis=1, keepdims=True)
    scales = (blocks.max(axis=1, keepdims=True) - least) / np.float32(most)
    codes = np.trunc((blocks - least) * _inverse(scales) + np.float32(0.5))
    return scales, least, codes.astype(np.uint8).clip(0, most)


def _q4_0(blocks: _Floats) -> _Bytes:
    scales, codes = _symmetric_codes(blocks, 8)
    return np.concatenate([_halves(scales), _nibbles(codes)], axis=1)


def _q4_1(blocks: _Floats) -> _Bytes:
    scales, least, codes = _offset_codes(blocks, 15)
    return np.concatenate([_halves(scales), _halves(least), _nibbles(codes)], axis=1)


def _q5_0(blocks: _Floats) -> _Bytes:
    scales, codes = _symmetric_codes(blocks, 16)
    return np.concatenate([_halves(scales), _fifth_bits(codes), _nibbles(codes)], axis=1)


def _q5_1(blocks: _Floats) -> _Bytes:
    scales, least, codes = _offset_codes(blocks, 31)
    parts = [_halves(scales), _halves(least), _fifth_bits(codes), _nibbles(codes)]
    return np.concatenate(parts, axis=1)


ENCODERS: dict[str, Callable[[_Floats], _Bytes]] = {
    "q8_0": _q8_0,
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
}
assert ENCODERS.keys() <= BLOCK_FORMATS.keys()
