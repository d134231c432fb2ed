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


def decode_rows(
    name: str, data: npt.NDArray[np.uint8], dtype: torch.dtype = torch.float32
) -> torch.Tensor | None:
    """Return the numbers of rows [rows, bytes per row] in a dtype [rows, whole blocks].

    None if the library was not built, or does not know the format or the dtype.
    """
    decode = _load()
    if decode is None or name not in FORMATS or dtype not in _DTYPES:
        return None
    block = BLOCK_FORMATS[name]
    data = np.ascontiguousarray(data)
    count = data.shape[1] // block.num_bytes
    result = torch.empty((len(data), count * block.inputs), dtype=dtype)
    is_bf16 = dtype == torch.bfloat16
    address, target = data.ctypes.data, result.data_ptr()
    decode(FORMATS.index(name), address, len(data) * count, is_bf16, target)
    return result


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
