"""Quantize weights to blocks, with the rounding of llama.cpp's reference quantizers."""

from collections.abc import Callable

import torch
from torch import Tensor

from headrace.workers.quantized.formats import BLOCK, BLOCK_FORMATS
from headrace.workers.quantized.tensor import QuantizedTensor, row_bytes

_CHUNK_ELEMENTS = 128 * 1024  # quantized at a time, so that what is between stays in the cache


def quantize(name: str, weight: Tensor) -> QuantizedTensor:
    """Quantize a weight [outputs, inputs] of floats; rows are padded with zeros to whole blocks.

    Raises KeyError if there is no quantizer of the format: see ENCODERS.
    """
    outputs, inputs = weight.shape
    result = torch.empty((outputs, row_bytes(name, inputs)), dtype=torch.uint8)
    step = max(1, _CHUNK_ELEMENTS // max(1, inputs))
    for first in range(0, outputs, step):
        rows = weight[first : first + step].detach().float()
        if inputs % BLOCK:
            rows = torch.nn.functional.pad(rows, (0, -inputs % BLOCK))
        encoded = ENCODERS[name](rows.reshape(-1, BLOCK))
        result[first : first + step] = encoded.view(len(rows), -1)
    return QuantizedTensor(name, (outputs, inputs), result.numpy())


def _inverse(scales: Tensor) -> Tensor:
    return torch.where(scales == 0, 0.0, 1.0 / scales)


def _halves(numbers: Tensor) -> Tensor:
    """Return the bytes of the numbers in 16 bits."""
    return numbers.half().view(torch.uint8)


def _nibbles(codes: Tensor) -> Tensor:
    low = codes & 15
    return low[:, : BLOCK // 2] | low[:, BLOCK // 2 :] << 4


def _fifth_bits(codes: Tensor) -> Tensor:
    """Return the bytes [blocks, 4] of the highest bits of codes of 5 bits."""
    bits = (codes >> 4).view(-1, BLOCK // 8, 8)
    packed = bits[..., 0].clone()
    for bit in range(1, 8):
        packed |= bits[..., bit] << bit
    return packed


def _q8_0(blocks: Tensor) -> Tensor:
    scales = blocks.abs().amax(dim=1, keepdim=True) / 127.0
    scaled = blocks * _inverse(scales)
    codes = scaled.add_(scaled.sign().mul_(0.5)).trunc_()  # halves away from zero
    return torch.cat([_halves(scales), codes.to(torch.int8).view(torch.uint8)], dim=1)


def _of_greatest_magnitude(blocks: Tensor) -> Tensor:
    """Return the number of greatest magnitude of each block, the first of several [blocks, 1]."""
    least, greatest = (each.unsqueeze(1) for each in torch.aminmax(blocks, dim=1))
    result = torch.where(-least > greatest, least, greatest)
    (ties,) = torch.where((-least == greatest)[:, 0])
    if len(ties):
        tied = blocks[ties]
        places = (tied.abs() == greatest[ties]).byte().argmax(dim=1, keepdim=True)
        result[ties] = tied.gather(1, places)
    return result


def _symmetric_codes(blocks: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Return scales and codes 0 to 2 * half - 1; the number of greatest magnitude becomes 0, its
    sign being the scale's."""
    scales = _of_greatest_magnitude(blocks) / -half
    codes = (blocks * _inverse(scales)).add_(half + 0.5).clamp_(max=2 * half - 1)
    return scales, codes.to(torch.uint8)


def _offset_codes(blocks: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return scales, the numbers that code 0 stands for, and codes 0 to `most`."""
    least, greatest = (each.unsqueeze(1) for each in torch.aminmax(blocks, dim=1))
    scales = (greatest - least) / most
    codes = (blocks - least).mul_(_inverse(scales)).add_(0.5).clamp_(max=most)
    return scales, least, codes.to(torch.uint8)


def _q4_0(blocks: Tensor) -> Tensor:
    scales, codes = _symmetric_codes(blocks, 8)
    return torch.cat([_halves(scales), _nibbles(codes)], dim=1)


def _q4_1(blocks: Tensor) -> Tensor:
    scales, least, codes = _offset_codes(blocks, 15)
    return torch.cat([_halves(scales), _halves(least), _nibbles(codes)], dim=1)


def _q5_0(blocks: Tensor) -> Tensor:
    scales, codes = _symmetric_codes(blocks, 16)
    return torch.cat([_halves(scales), _fifth_bits(codes), _nibbles(codes)], dim=1)


def _q5_1(blocks: Tensor) -> Tensor:
    scales, least, codes = _offset_codes(blocks, 31)
    parts = [_halves(scales), _halves(least), _fifth_bits(codes), _nibbles(codes)]
    return torch.cat(parts, dim=1)


ENCODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "q8_0": _q8_0,
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
}
assert ENCODERS.keys() <= BLOCK_FORMATS.keys()
