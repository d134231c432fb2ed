"""Orders in which a GGUF file has the rows or columns of a weight, and the model's own.

llama.cpp's converter reorders some: pairs that rotate together, and parts of joined projections.
An order is its name with sizes, so that it takes no room in a prepared folder.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


def positions_in_file(order: Sequence[Any], count: int) -> Positions:
    """Return where each of the model's rows lies among the file's [count].

    Raises ValueError if the sizes do not fit, KeyError if the name is unknown.
    """
    found = _ORDERS[order[0]](count, *order[1:])
    if len(found) != count:
        raise ValueError(f"{order} does not fit {count} rows")
    return np.ascontiguousarray(found)


def _pairs(count: int, heads: int) -> Positions:
    """Undo llama.cpp's rotary pairs: of each head the even rows, then the odd ones."""
    rows = np.arange(count, dtype=np.int64).reshape(heads, count // heads // 2, 2)
    return rows.swapaxes(1, 2).reshape(count)


def _grouped(count: int, groups: int, *sizes: int) -> Positions:
    """Undo that parts with so many rows for each group follow one another: each group has all."""
    starts = np.cumsum([0, *(groups * size for size in sizes)])
    rows = np.arange(count, dtype=np.int64)
    parts = [
        rows[start : start + groups * size].reshape(groups, size)
        for start, size in zip(starts, sizes, strict=False)
    ]
    return np.concatenate(parts, 1).reshape(-1)


def _tiled(count: int, first: int, groups: int, members: int, size: int) -> Positions:
    """Undo that heads of groups take turns, from a row on: each group has its members in a row."""
    rows = np.arange(count, dtype=np.int64)
    turned = rows[first:].reshape(members, groups, size).swapaxes(0, 1).reshape(-1)
    return np.concatenate([rows[:first], turned])


_ORDERS: dict[str, Callable[..., Positions]] = {
    "pairs": _pairs,
    "grouped": _grouped,
    "tiled": _tiled,
}
