"""Expand quantized blocks with compiled code; see src/decode.cpp.

The library is built when Headrace is installed, if a compiler is available. Without it the same is
done by numpy and torch, many times slower.
"""

import ctypes
import functools
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from headrace.workers.quantized.formats import BLOCK_FORMATS

# In the order of the enumeration in src/decode.cpp.
FORMATS = (
    "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "iq4_nl", "mxfp4",
)  # fmt: skip
_DTYPES = (torch.float32, torch.bfloat16)


def decode_rows(name: str, data: npt.NDArray[np.uint8], result: torch.Tensor) -> bool:
    """Write the numbers of rows [rows, bytes per row] to a dense tensor [rows, whole blocks].

    Returns False, and writes nothing, if the library was not built, or does not know the format or
    the tensor's dtype.
    """
    decode = _load()
    if decode is None or name not in FORMATS or result.dtype not in _DTYPES:
        return False
    block = BLOCK_FORMATS[name]
    data = np.ascontiguousarray(data)
    count = data.size // block.num_bytes
    assert result.is_contiguous()
    assert result.numel() == count * block.inputs
    is_bf16 = result.dtype == torch.bfloat16
    decode(FORMATS.index(name), data.ctypes.data, count, is_bf16, result.data_ptr())
    return True


@functools.cache
def _load() -> Callable[..., int] | None:
    """Load the library's function; None if it was not built."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).parent / f"decoder{suffix}"
        if path.exists():
            decode = ctypes.CDLL(str(path)).headrace_decode
            number, address = ctypes.c_int, ctypes.c_void_p
            decode.argtypes = (number, address, ctypes.c_int64, number, address)
            return decode
    return None
