"""Read the blocks of a file into codes and scales, one form for all formats.

Layouts are those of GGUF. A file's scales of 256 inputs stay what they are, small integers and a
16-bit scale, so that packed weights need not more memory than the file.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from headrace.workers.quantized.formats import BLOCK, BLOCK_FORMATS, SUPER_BLOCK

Codes = npt.NDArray[np.uint8]
_PER_SUPER = SUPER_BLOCK // BLOCK
_ONE, _THREE, _FOUR = np.uint8(1), np.uint8(3), np.uint8(4)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Rows of blocks of 32 inputs; see `BlockFormat` for what they stand for.

    codes: [rows, blocks, 32].
    scales: [rows, blocks, scales]: float16 (float32 in mxfp4), or integers of 8 bits.
    minimums: [rows, blocks], likewise; None: there are none.
    super_scales: of integer scales, float16 [rows, blocks / 8, 1 or 2]: of scales, of minimums.
    """

    format: str
    codes: Codes
    scales: npt.NDArray[np.generic]
    minimums: npt.NDArray[np.generic] | None = None
    super_scales: npt.NDArray[np.float16] | None = None

    def dequantize(self) -> torch.Tensor:
        """Return the weights, float32 [rows, blocks * 32]."""
        spec = BLOCK_FORMATS[self.format]
        scales = torch.from_numpy(self.scales).float()
        minimums = None if self.minimums is None else torch.from_numpy(self.minimums).float()
        if self.super_scales is not None:
            common = torch.from_numpy(self.super_scales).float()
            common = common.repeat_interleave(_PER_SUPER, dim=1)
            scales *= common[..., :1]
            if minimums is not None:
                minimums *= common[..., 1]
        codes = torch.from_numpy(self.codes)
        if spec.codebook is not None:
            numbers = torch.tensor(spec.codebook, dtype=torch.float32)[codes.int()]
        else:
            numbers = codes.float() - spec.offset
        rows, count, _ = numbers.shape
        result = numbers.view(rows, count, spec.scales, -1) * scales.unsqueeze(-1)
        result = result.view(rows, count, BLOCK)
        if minimums is not None:
            result -= minimums.unsqueeze(-1)
        return result.view(rows, -1)


def read_blocks(name: str, data: Codes) -> Blocks:
    """Read rows [rows, bytes per row] of a format. Raises KeyError if it is unknown."""
    spec = BLOCK_FORMATS[name]
    blocks = data.reshape(len(data), -1, spec.num_bytes)
    return _READERS[name](name, blocks)


def _floats(data: Codes) -> npt.NDArray[np.float16]:
    """Return the 16-bit floats of [..., bytes]."""
    return np.ascontiguousarray(data).view(np.float16)


def _nibbles(data: Codes) -> Codes:
    """Return the 4-bit codes of [..., 16]: the low halves of the bytes, then the high ones."""
    return np.concatenate([data & 15, data >> 4], axis=-1)


def _bits(data: Codes) -> Codes:
    """Return the bits of [..., 4] bytes, lowest first, [..., 32]."""
    return np.unpackbits(np.ascontiguousarray(data), axis=-1, bitorder="little")


def _q8_0(name: str, blocks: Codes) -> Blocks:
    return Blocks(name, blocks[..., 2:] ^ np.uint8(128), _floats(blocks[..., :2]))


def _q4_0(name: str, blocks: Codes) -> Blocks:
    return Blocks(name, _nibbles(blocks[..., 2:]), _floats(blocks[..., :2]))


def _q8_m(name: str, blocks: Codes) -> Blocks:
    numbers = _floats(blocks[..., :4])
    return Blocks(name, blocks[..., 4:] ^ np.uint8(128), numbers[..., :1], -numbers[..., 1])


def _q4_1(name: str, blocks: Codes) -> Blocks:
    # The file has what is added to a weight, not what is subtracted.
    return Blocks(
        name,
        _nibbles(blocks[..., 4:]),
        _floats(blocks[..., :2]),
        -_floats(blocks[..., 2:4])[..., 0],
    )


def _q5_0(name: str, blocks: Codes) -> Blocks:
    codes = _nibbles(blocks[..., 6:]) | _bits(blocks[..., 2:6]) << _FOUR
    return Blocks(name, codes, _floats(blocks[..., :2]))


def _q5_1(name: str, blocks: Codes) -> Blocks:
    codes = _nibbles(blocks[..., 8:]) | _bits(blocks[..., 4:8]) << _FOUR
    return Blocks(name, codes, _floats(blocks[..., :2]), -_floats(blocks[..., 2:4])[..., 0])


def _k_scales(packed: Codes) -> tuple[Codes, Codes]:
    """Return scales and minimums [..., 8] of 6 bits from their 12 bytes.

    The first four of each are the low bits of bytes 0 to 7; of the others, bytes 8 to 11 hold four
    bits and the high bits of bytes 0 to 7 two.
    """
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=-1)
    minimums = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=-1)
    return scales, minimums


def _k_nibbles(data: Codes) -> Codes:
    """Return codes [rows, supers, 8, 32] from [rows, supers, 128]: of each 32 bytes, the low
    halves are one block and the high halves the next."""
    rows, supers, _ = data.shape
    pairs = data.reshape(rows, supers, _PER_SUPER // 2, 1, BLOCK)
    return np.concatenate([pairs & 15, pairs >> 4], axis=-2).reshape(rows, supers, -1, BLOCK)


def _q4_k(name: str, blocks: Codes, high: Codes | None = None) -> Blocks:
    rows = len(blocks)
    scales, minimums = _k_scales(blocks[..., 4:16])
    codes = _k_nibbles(blocks[..., -SUPER_BLOCK // 2 :])
    if high is not None:
        codes |= high
    return Blocks(
        name,
        codes.reshape(rows, -1, BLOCK),
        scales.reshape(rows, -1, 1),
        minimums.reshape(rows, -1),
        _floats(blocks[..., :4]),
    )


def _q5_k(name: str, blocks: Codes) -> Blocks:
    # Bit b of byte i is the highest bit of input i of block b.
    shifts = np.arange(_PER_SUPER, dtype=np.uint8)[:, None]
    return _q4_k(name, blocks, (blocks[..., None, 16:48] >> shifts & _ONE) << _FOUR)


def _q6_k(name: str, blocks: Codes) -> Blocks:
    rows, supers, _ = blocks.shape
    halves = (rows, supers, 2)  # each of 128 inputs: four blocks
    low = blocks[..., :128].reshape(*halves, 1, 2, BLOCK)
    low = np.concatenate([low & 15, low >> 4], axis=-3).reshape(*halves, 4, BLOCK)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = blocks[..., 128:192].reshape(*halves, 1, BLOCK) >> shifts & _THREE
    scales = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8)
    return Blocks(
        name,
        (low | high << _FOUR).reshape(rows, -1, BLOCK),
        scales.reshape(rows, -1, 2),
        None,
        _floats(blocks[..., 208:210]),
    )


def _mxfp4(name: str, blocks: Codes) -> Blocks:
    # The exponent of a power of two, halved, as the codebook's numbers are doubled.
    exponents = blocks[..., :1].astype(np.int32)
    scales = np.ldexp(np.float32(0.5), exponents - 127).astype(np.float32)
    return Blocks(name, _nibbles(blocks[..., 1:]), scales)


_READERS: dict[str, Callable[[str, Codes], Blocks]] = {
    "q8_0": _q8_0,
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
    "iq4_nl": _q4_0,
    "mxfp4": _mxfp4,
    "q8_m": _q8_m,
}
