"""Arrange blocks in the panels that the kernels read (see native/src/quantized_formats.h)."""

import numpy as np
import numpy.typing as npt

from headrace.workers.quantized.blocks import Blocks
from headrace.workers.quantized.formats import BLOCK, BLOCK_FORMATS, SUPER_BLOCK, BlockFormat

PANEL_OUTPUTS = 32  # outputs of a weight that are stored together
_PER_SUPER = SUPER_BLOCK // BLOCK
_WORDS = BLOCK // 4  # of a block's codes, of four bytes each
_FLOAT_BYTES = 2

_Bytes = npt.NDArray[np.uint8]


def panel_bytes(name: str, blocks: int) -> int:
    """Return the bytes of a panel of rows of `blocks` blocks."""
    spec = BLOCK_FORMATS[name]
    per_block, per_super = _block_bytes(spec), _super_bytes(spec)
    return blocks * per_block + (blocks // _PER_SUPER * per_super if per_super else 0)


def pack_panels(blocks: Blocks, panels: _Bytes) -> None:
    """Write rows to panels [panels, bytes of one]: 32 rows to each panel."""
    spec = BLOCK_FORMATS[blocks.format]
    numbers = [_across(blocks.scales, spec)]
    if blocks.minimums is not None:
        numbers.append(_across(blocks.minimums[..., None], spec))
    words = code_words(blocks.codes, spec.bits)
    numbers.append(_transposed(words).view(np.uint8).reshape(*numbers[0].shape[:2], -1))
    count, per_row, _ = numbers[0].shape
    size, super_size = _block_bytes(spec), _super_bytes(spec)
    if blocks.super_scales is None:
        _fill(panels.reshape(count, per_row, size), numbers)
        return
    supers = panels.reshape(count, per_row // _PER_SUPER, super_size + _PER_SUPER * size)
    scales = _transposed(blocks.super_scales)
    supers[..., :super_size] = scales.view(np.uint8).reshape(*scales.shape[:2], -1)
    inner = supers[..., super_size:]
    for block in range(_PER_SUPER):
        to = inner[..., block * size : (block + 1) * size]
        _fill(to, [part[:, block::_PER_SUPER] for part in numbers])


def code_words(codes: _Bytes, bits: int) -> npt.NDArray[np.uint32]:
    """Return the words [rows, blocks, words] that hold the codes [rows, blocks, 32]."""
    if bits == 8:
        return (codes ^ np.uint8(128)).view(np.uint32)  # signed
    low = codes & np.uint8(15)
    parts = [low[..., : BLOCK // 2] | low[..., BLOCK // 2 :] << np.uint8(4)]
    if bits > 4:
        parts.append(_planes(codes >> np.uint8(4), bits - 4))
    return np.concatenate(parts, axis=-1).view(np.uint32)


def _planes(high: _Bytes, bits: int) -> _Bytes:
    """Return planes of the bits above the lowest four, [rows, blocks, 4 * bits] bytes."""
    rows, blocks, _ = high.shape
    per_byte = _WORDS // bits
    words = high.reshape(rows, blocks, bits, per_byte, 4)
    planes = words[..., 0, :].copy()
    for index in range(1, per_byte):
        planes |= words[..., index, :] << np.uint8(index * bits)
    return planes.reshape(rows, blocks, -1)


def _across(numbers: npt.NDArray[np.generic], spec: BlockFormat) -> _Bytes:
    """Return the bytes [panels, blocks, ...] of scales or minimums [rows, blocks, of each]."""
    if not spec.has_super_scales:
        numbers = numbers.astype(np.float16)
    panels = _transposed(numbers)
    return panels.view(np.uint8).reshape(*panels.shape[:2], -1)


def _transposed(numbers: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return [panels, blocks, of each, 32] from [rows, blocks, of each]."""
    _, blocks, each = numbers.shape
    panels = numbers.reshape(-1, PANEL_OUTPUTS, blocks, each)
    return np.ascontiguousarray(panels.transpose(0, 2, 3, 1))


def _fill(to: _Bytes, parts: list[_Bytes]) -> None:
    at = 0
    for part in parts:
        to[..., at : at + part.shape[-1]] = part
        at += part.shape[-1]


def _block_bytes(spec: BlockFormat) -> int:
    numbers = spec.scales + spec.has_minimums
    each = 1 if spec.has_super_scales else _FLOAT_BYTES
    return PANEL_OUTPUTS * (numbers * each + BLOCK * spec.bits // 8)


def _super_bytes(spec: BlockFormat) -> int:
    if not spec.has_super_scales:
        return 0
    return PANEL_OUTPUTS * _FLOAT_BYTES * (1 + spec.has_minimums)
