"""Read codes of 2 to 8 bits from words of 32, as checkpoints in safetensors have them."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from headrace.workers.quantized.converted_rows import Rows

Codes = npt.NDArray[np.uint8]
ReadCodes = Callable[[Rows], Codes]  # of some outputs, [outputs, inputs or groups]

_WORD_BITS = 32
_AWQ_WIDTH = 8  # codes of a word
_AWQ_ORDER = np.argsort([0, 2, 4, 6, 1, 3, 5, 7])  # where a word has the code of each output


def codes_of_rows(words: torch.Tensor, bits: int, count: int) -> ReadCodes:
    """Return what reads words [outputs, words]: each row's codes follow one another."""

    def read(rows: Rows) -> Codes:
        return unpack(words.numpy()[_index(rows)], bits)[:, :count]

    return read


def codes_of_columns(words: torch.Tensor, bits: int, count: int) -> ReadCodes:
    """Return what reads words [words, outputs]: each column's codes follow one another."""

    def read(rows: Rows) -> Codes:
        return unpack(words.numpy()[:, _index(rows)].T, bits)[:, :count]

    return read


def codes_across(words: torch.Tensor, bits: int) -> ReadCodes:
    """Return what reads words [inputs, words] whose rows have the codes of all outputs."""

    def read(rows: Rows) -> Codes:
        first, last = _span(rows, _WORD_BITS)  # whole words, of whichever number of bits
        data = words.numpy()[:, first * bits // _WORD_BITS : -(-last * bits // _WORD_BITS)]
        return np.ascontiguousarray(unpack(data, bits)[:, rows - first].T)

    return read


def codes_of_awq(words: torch.Tensor) -> ReadCodes:
    """Return what reads 4-bit codes of words [inputs, words], in AWQ's order of the outputs."""

    def read(rows: Rows) -> Codes:
        first, last = _span(rows, _AWQ_WIDTH)
        data = unpack(words.numpy()[:, first // _AWQ_WIDTH : last // _AWQ_WIDTH], 4)
        inputs = len(data)
        ordered = data.reshape(inputs, -1, _AWQ_WIDTH)[..., _AWQ_ORDER].reshape(inputs, -1)
        return np.ascontiguousarray(ordered[:, rows - first].T)

    return read


def codes_of_bytes(numbers: torch.Tensor) -> ReadCodes:
    """Return what reads signed bytes [outputs, inputs]; a code is 128 more than its number."""

    def read(rows: Rows) -> Codes:
        data = np.ascontiguousarray(numbers.numpy()[_index(rows)])
        return data.view(np.uint8) ^ np.uint8(128)

    return read


def unpack(words: npt.NDArray[np.int32] | Codes, bits: int) -> Codes:
    """Return the codes of words or bytes [rows, words], each row's from its lowest bit on."""
    data = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return data
    if bits == 4:
        result = np.empty((*data.shape, 2), np.uint8)
        np.bitwise_and(data, 15, out=result[..., 0])
        np.right_shift(data, 4, out=result[..., 1])
        return result.reshape(len(data), -1)
    each = np.unpackbits(data, axis=1, bitorder="little")
    whole = each[:, : each.shape[1] // bits * bits].reshape(len(data), -1, bits)
    return np.packbits(whole, axis=2, bitorder="little")[..., 0]


def _index(rows: Rows) -> slice | Rows:
    """Return rows as a slice if they follow one another, which is faster to read."""
    is_range = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
    if is_range and bool((np.diff(rows) == 1).all()):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _span(rows: Rows, unit: int) -> tuple[int, int]:
    """Return the first and the last row, in whole units."""
    if not len(rows):
        return 0, 0
    return int(rows.min()) // unit * unit, -(-(int(rows.max()) + 1) // unit) * unit
