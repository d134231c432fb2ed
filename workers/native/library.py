"""The compiled kernels, by ctypes: their functions, and the layout of what they are given.

The layouts are those of src/program.h and src/draw.h. The library is built when Headrace is
installed, where a compiler is at hand; without it, or on a processor that it was not written for,
models run on torch's own operations.
"""

import ctypes
import functools
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

OPERATIONS = (
    "embed", "norm", "linear", "convert", "rotate", "write", "attend", "finish_attend", "combine",
    "gather", "round", "shrink",
)  # fmt: skip

PANEL_OUTPUTS = 32  # outputs of a weight that lie together
GROUP_TOKENS = 16  # tokens of the cache that lie together
MAX_HEAD_DIM = 512  # of a head


class COperand(ctypes.Structure):
    _fields_ = (("buffer", ctypes.c_int32), ("at", ctypes.c_int32))


class CInstruction(ctypes.Structure):
    _fields_ = (
        ("operation", ctypes.c_int32),
        ("wanted", ctypes.c_int32),
        ("inputs", COperand * 3),
        ("out", COperand),
        ("packed", ctypes.c_int32),
        ("sizes", ctypes.c_int32 * 8),
        ("numbers", ctypes.c_float * 3),
        ("data", ctypes.c_void_p * 3),
    )


class CBuffer(ctypes.Structure):
    _fields_ = (("width", ctypes.c_int32), ("kind", ctypes.c_int32))


class CAdapter(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_int32),
        ("down", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
    )


class CStep(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int32),
        ("num_wanted", ctypes.c_int32),
        ("num_spans", ctypes.c_int32),
        ("token_ids", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("wanted", ctypes.c_void_p),
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
        ("least", ctypes.c_float),
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
    "new_draws": ((_INT,), _POINTER),
    "draw": ((_POINTER, _POINTER, _LONG, _LONG, _POINTER, _INT, _POINTER), _INT),
}
# What `level` says of a processor.
_NEEDED_LEVEL = {torch.float32: 1, torch.bfloat16: 2}


class Kernels:
    """The library's functions, each under its name without the prefix.

    build: tells builds apart.
    """

    build: str

    level: Callable[[], int]
    allocate: Callable[[int], int | None]
    free: Callable[..., None]
    pack: Callable[..., None]
    new: Callable[..., int | None]
    run: Callable[..., int]
    delete: Callable[..., None]
    new_draws: Callable[[int], int | None]
    draw: Callable[..., int]

    def __init__(self, path: Path) -> None:
        found = path.stat()
        self.build = f"{found.st_size}-{found.st_mtime_ns}"
        library = ctypes.CDLL(str(path))
        for name, (arguments, result) in _SIGNATURES.items():
            function = getattr(library, f"headrace_{name}")
            function.argtypes = arguments
            function.restype = result
            setattr(self, name, function)


def unsupported_reason(dtype: torch.dtype) -> str | None:
    """Why a model of this dtype cannot run on the kernels here; None if it can."""
    found = load_kernels()
    if found is None:
        return "the kernels were not built (no C++ compiler when Headrace was installed)"
    needed = _NEEDED_LEVEL.get(dtype)
    if needed is None:
        return f"there are no kernels for {str(dtype).removeprefix('torch.')}"
    if found.level() < needed:
        wanted = "AVX-512 with bfloat16" if needed == 2 else "AVX-512"
        return f"the processor lacks {wanted}"
    return None


@functools.cache
def load_kernels() -> Kernels | None:
    """The library; None if it was not built."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).parent / f"kernels{suffix}"
        if path.exists():
            return Kernels(path)
    return None
