"""Expand and arrange quantized blocks with compiled code; see src/decode.cpp and src/pack.cpp.

The library is built when Headrace is installed, if a compiler is available. Without it the same is
done by numpy and torch, many times slower.
"""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from headrace.workers.quantized.formats import BLOCK, BLOCK_FORMATS
from headrace.workers.quantized.panels import PANEL_OUTPUTS, panel_bytes

# In the order of the enumeration in src/blocks.h.
FORMATS = (
    "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "iq4_nl", "mxfp4", "q8_m",
)  # fmt: skip
_PACKED = set(FORMATS) - {"mxfp4"}
_DTYPES = (torch.float32, torch.bfloat16)


def decode_rows(name: str, data: npt.NDArray[np.uint8], result: torch.Tensor) -> bool:
    """Write the numbers of rows [rows, bytes per row] to a dense tensor [rows, whole blocks].

    Returns False, and writes nothing, if the library was not built, or does not know the format or
    the tensor's dtype.
    """
    functions = _load()
    if functions is None or name not in FORMATS or result.dtype not in _DTYPES:
        return False
    block = BLOCK_FORMATS[name]
    data = np.ascontiguousarray(data)
    count = data.size // block.num_bytes
    assert result.is_contiguous()
    assert result.numel() == count * block.inputs
    is_bf16 = result.dtype == torch.bfloat16
    functions.decode(FORMATS.index(name), data.ctypes.data, count, is_bf16, result.data_ptr())
    return True


def pack_rows(name: str, rows: npt.NDArray[np.uint8], panels: npt.NDArray[np.uint8]) -> bool:
    """Write rows [32 * panels, bytes per row] to panels [panels, bytes of one].

    Returns False, and writes nothing, if the library was not built, or does not know the format.
    """
    functions = _load()
    if functions is None or name not in _PACKED:
        return False
    spec = BLOCK_FORMATS[name]
    blocks = rows.shape[1] // spec.num_bytes * (spec.inputs // BLOCK)
    if panels.shape[1] != panel_bytes(name, blocks):  # the last block is cut short
        return False
    assert rows.flags.c_contiguous
    assert panels.flags.c_contiguous
    assert len(rows) == PANEL_OUTPUTS * len(panels)
    addresses = rows.ctypes.data, panels.ctypes.data
    number, count = FORMATS.index(name), len(panels)
    functions.pack(number, addresses[0], rows.shape[1], count, blocks, addresses[1])
    return True


@dataclass(frozen=True)
class _Functions:
    decode: Callable[..., int]
    pack: Callable[..., int]


@functools.cache
def _load() -> _Functions | None:
    """Load the library's functions; None if it was not built."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).parent / f"decoder{suffix}"
        if path.exists():
            library = ctypes.CDLL(str(path))
            number, count, address = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
            library.headrace_decode.argtypes = (number, address, count, number, address)
            library.headrace_pack_panels.argtypes = (
                number, address, count, count, count, address,
            )  # fmt: skip
            return _Functions(library.headrace_decode, library.headrace_pack_panels)
    return None
