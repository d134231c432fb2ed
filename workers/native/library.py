"""Load the compiled kernels with ctypes, and declare their functions and structs.

The struct layouts are those of src/program.h and src/draw.h. The library is built when Headrace is
installed, if a compiler is available; without the library, or on a processor that lacks the
instructions, models run on torch's own operations.
"""

import ctypes
import functools
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Literal, get_args

import torch

# In the order of the enumeration in src/program.h.
Operation = Literal[
    "embed", "norm", "linear", "convert", "rotate", "write", "attend", "finish_attend", "combine",
    "gather", "round", "shrink", "round_blocks", "route", "sort_pairs", "copy_rows", "experts_up",
    "experts_down", "copy_heads", "round_pairs",
]  # fmt: skip


OPERATIONS: tuple[Operation, ...] = get_args(Operation)

PANEL_OUTPUTS = 32  # outputs of a weight that are stored together
GROUP_TOKENS = 16  # tokens of the cache that are stored together
MAX_HEAD_DIM = 512


class COperand(ctypes.Structure):
    _fields_ = (("buffer", ctypes.c_int32), ("offset", ctypes.c_int32))


class CInstruction(ctypes.Structure):
    _fields_ = (
        ("operation", ctypes.c_int32),
        ("logit_rows_only", ctypes.c_int32),
        ("inputs", COperand * 3),
        ("out", COperand),
        ("packed", ctypes.c_int32),
        ("sizes", ctypes.c_int32 * 8),
        ("numbers", ctypes.c_float * 3),
        ("data", ctypes.c_void_p * 3),
    )


class CBuffer(ctypes.Structure):
    _fields_ = (("width", ctypes.c_int32), ("kind", ctypes.c_int32), ("copies", ctypes.c_int32))


class CAdapter(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_int32),
        ("down", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
    )


class CStep(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int32),
        ("num_logit_rows", ctypes.c_int32),
        ("num_spans", ctypes.c_int32),
        ("token_ids", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("logit_rows", ctypes.c_void_p),
        ("spans", ctypes.c_void_p),
        ("blocks", ctypes.c_void_p),
        ("tables", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("adapters", ctypes.c_void_p),
        ("num_slots", ctypes.c_int32),
        ("max_rank", ctypes.c_int32),
    )


class CDraw(ctypes.Structure):
    _fields_ = (
        ("row", ctypes.c_int64),
        ("uniform", ctypes.c_double),
        ("temperature", ctypes.c_float),
        ("log_min_p", ctypes.c_float),
        ("top_p", ctypes.c_float),
        ("top_k", ctypes.c_int32),
    )


_INT, _LONG, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
_SIGNATURES = {
    "level": ((), _INT),
    "allocate": ((_LONG,), _POINTER),
    "free": ((_POINTER, _LONG), None),
    "pack": ((_INT, _POINTER, _LONG, _LONG, _LONG, _LONG, _LONG, _LONG, _POINTER), None),
    "new": ((_INT, _POINTER, _INT, _POINTER, _INT, _INT, _LONG, _INT), _POINTER),
    "run": ((_INT, _POINTER, _POINTER), _INT),
    "delete": ((_INT, _POINTER), None),
    "quantized_panel_bytes": ((_INT, _LONG), _LONG),
    "round_rows": ((_POINTER, _LONG, _LONG, _POINTER), _LONG),
    "multiply_quantized": (
        (_INT, _POINTER, _LONG, _POINTER, _LONG, _INT, _POINTER),
        None,
    ),
    "new_draws": ((_INT,), _POINTER),
    "draw": ((_POINTER, _POINTER, _LONG, _LONG, _POINTER, _INT, _POINTER), _INT),
}
# The instruction level (see `headrace_level` in src/program.cpp) that a dtype needs.
_NEEDED_LEVEL = {torch.float32: 1, torch.bfloat16: 2}


class Kernels:
    """The library's functions, each under its name without the prefix `headrace_`.

    build: identifies the build of the library file.
    """

    build: str

    level: Callable[[], int]
    allocate: Callable[[int], int | None]
    free: Callable[..., None]
    pack: Callable[..., None]
    new: Callable[..., int | None]
    run: Callable[..., int]
    delete: Callable[..., None]
    quantized_panel_bytes: Callable[[int, int], int]
    round_rows: Callable[..., int]
    multiply_quantized: Callable[..., None]
    new_draws: Callable[[int], int | None]
    draw: Callable[..., int]

    def __init__(self, path: Path) -> None:
        info = path.stat()
        self.build = f"{info.st_size}-{info.st_mtime_ns}"
        library = ctypes.CDLL(str(path))
        for name, (arguments, result) in _SIGNATURES.items():
            function = getattr(library, f"headrace_{name}")
            function.argtypes = arguments
            function.restype = result
            setattr(self, name, function)


def unsupported_reason(dtype: torch.dtype) -> str | None:
    """Return why a model of this dtype cannot run on the kernels here; None if it can."""
    library = load_kernels()
    if library is None:
        return "the kernels were not built (no C++ compiler when Headrace was installed)"
    needed = _NEEDED_LEVEL.get(dtype)
    if needed is None:
        return f"there are no kernels for {str(dtype).removeprefix('torch.')}"
    if library.level() < needed:
        instructions = "AVX-512 with bfloat16" if needed == 2 else "AVX-512"
        return f"the processor lacks {instructions}"
    return None


def require_kernels() -> Kernels:
    """Return the library where `unsupported_reason` has been checked before."""
    library = load_kernels()
    assert library is not None
    return library


@functools.cache
def load_kernels() -> Kernels | None:
    """Load the library; None if it was not built."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).parent / f"kernels{suffix}"
        if path.exists():
            return Kernels(path)
    return None
