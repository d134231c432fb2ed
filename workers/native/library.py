"""Load the compiled kernels with ctypes, and declare their functions and structs.

The struct layouts are those of src/program.h and src/draw.h. A library is built for each
instruction set when Headrace is installed, if a compiler is available, and the fastest that the
processor can run is loaded; without any, models run on torch's own operations.
"""

import ctypes
import functools
import platform
from collections.abc import Callable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch

from headrace.workers.attention.backend import Span

if TYPE_CHECKING:  # pydantic is not needed to run a model
    from headrace.protocol.config import CpuKernels, KernelSet

# In the order of the enumeration in src/program.h.
Operation = Literal[
    "embed", "norm", "linear", "convert", "rotate", "write", "attend", "finish_attend", "combine",
    "gather", "round", "shrink", "round_blocks", "route", "sort_pairs", "copy_rows", "experts_up",
    "experts_down", "copy_heads", "round_pairs", "reorder", "scores",
]  # fmt: skip


OPERATIONS: tuple[Operation, ...] = get_args(Operation)

# The instruction sets that libraries are built for (setup.py), the fastest first, in words.
KERNEL_SETS: "dict[KernelSet, str]" = {
    "avx512": "AVX-512 with bfloat16 and VNNI",
    "avx2vnni": "AVX2 with VNNI",
    "avx2": "AVX2 with FMA",
    "neon": "NEON with dot products",
    "portable": "nothing",
}

_ARM_MACHINES = ("aarch64", "arm64")

# In the order of the enumeration in src/cache_shape.h; "": the type of the program's products.
CACHE_FORMATS: tuple[Literal["", "bfloat16", "int8", "fp8"], ...] = ("", "bfloat16", "int8", "fp8")

PANEL_OUTPUTS = 32  # outputs of a weight that are stored together
GROUP_TOKENS = 16  # tokens of the cache that are stored together
MAX_HEAD_DIM = 512
MAX_EXPERTS = 1024  # of a layer


class COperand(ctypes.Structure):
    _fields_ = (("buffer", ctypes.c_int32), ("offset", ctypes.c_int32))


class CInstruction(ctypes.Structure):
    _fields_ = (
        ("operation", ctypes.c_int32),
        ("logit_rows_only", ctypes.c_int32),
        ("inputs", COperand * 3),
        ("out", COperand),
        ("packed", ctypes.c_int32),
        ("sizes", ctypes.c_int32 * 9),
        ("numbers", ctypes.c_float * 3),
        ("data", ctypes.c_void_p * 3),
    )


class CScoreBias(ctypes.Structure):
    _fields_ = (
        ("numbers", ctypes.c_void_p),
        ("stride", ctypes.c_int32),
        ("centre", ctypes.c_int32),
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
        ("token_types", ctypes.c_void_p),
        ("begin", ctypes.c_int32),
        ("end", ctypes.c_int32),
        ("sources", ctypes.c_void_p),
        ("features", ctypes.c_void_p),
        ("scores", ctypes.c_void_p),
        ("feature_stride", ctypes.c_int32),
        ("score_stride", ctypes.c_int32),
    )


class CCacheBlocks(ctypes.Structure):
    _fields_ = (("counts", ctypes.c_int64 * 3),)


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
    "supported": ((), _INT),
    "allocate": ((_LONG,), _POINTER),
    "free": ((_POINTER, _LONG), None),
    "pack": ((_INT, _POINTER, _LONG, _LONG, _LONG, _LONG, _LONG, _LONG, _POINTER), None),
    "new": ((_INT, _POINTER, _INT, _POINTER, _INT, _INT, _POINTER, _INT, _INT, _INT), _POINTER),
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


class Kernels:
    """A library's functions, each under its name without the prefix `headrace_`.

    name: of its instruction set. build: identifies the build of the library file.
    """

    name: "KernelSet"
    build: str

    supported: Callable[[], int]
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

    def __init__(self, name: "KernelSet", path: Path) -> None:
        self.name = name
        info = path.stat()
        self.build = f"{info.st_size}-{info.st_mtime_ns}"
        library = ctypes.CDLL(str(path))
        for function_name, (arguments, result) in _SIGNATURES.items():
            function = getattr(library, f"headrace_{function_name}")
            function.argtypes = arguments
            function.restype = result
            setattr(self, function_name, function)


class _Choice:
    """The process's choice of kernels: it serves one model."""

    kernels: "CpuKernels" = "auto"


def choose_kernels(kernels: "CpuKernels") -> None:
    """Let this process run its models, and draw tokens, with these kernels from now on.

    `unsupported_reason` tells whether they can run here.
    """
    _Choice.kernels = kernels


def unsupported_reason(dtype: torch.dtype) -> str | None:
    """Return why a model of this dtype cannot run on the chosen kernels; None if it can."""
    if _Choice.kernels == "torch":
        return "cpu_kernels is torch"
    if load_kernels() is None:
        return _missing_reason()
    if dtype not in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        return f"there are no kernels for {name}, which is many times slower than bfloat16"
    return None


def require_kernels() -> Kernels:
    """Return the library where `unsupported_reason` has been checked before."""
    library = load_kernels()
    assert library is not None
    return library


def load_kernels() -> Kernels | None:
    """Return this process's library; None if there is none, see `find_kernels`."""
    return find_kernels(_Choice.kernels)


def find_kernels(kernels: "CpuKernels") -> Kernels | None:
    """Return the library of a choice, or the fastest; None if it was not built or cannot run here.

    Where torch's operations run the model, the fastest library draws the tokens.
    """
    chosen = _set_of(kernels)
    names = KERNEL_SETS if chosen is None else (chosen,)
    return next((library for name in names if (library := _usable(name))), None)


def usable_kernels() -> "list[KernelSet]":
    """Return the instruction sets whose libraries run here, the fastest first."""
    return [name for name in KERNEL_SETS if _usable(name)]


def _missing_reason() -> str:
    chosen = _set_of(_Choice.kernels)
    if chosen is None:
        return "kernels for this processor were not built (no C++ compiler at installation)"
    if chosen != "portable" and (chosen == "neon") != (platform.machine() in _ARM_MACHINES):
        return f"the processor lacks {KERNEL_SETS[chosen]}"
    if load_library(chosen) is None:
        return f"the kernels for {chosen} were not built when Headrace was installed"
    return f"the processor lacks {KERNEL_SETS[chosen]}"


def _set_of(kernels: "CpuKernels") -> "KernelSet | None":
    return next((name for name in KERNEL_SETS if name == kernels), None)


def _usable(name: "KernelSet") -> Kernels | None:
    library = load_library(name)
    return library if library is not None and library.supported() else None


@functools.cache
def load_library(name: "KernelSet") -> Kernels | None:
    """Load the library of an instruction set; None if it was not built."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).parent / f"kernels_{name}{suffix}"
        if path.exists():
            return Kernels(name, path)
    return None


def span_arrays(spans: Sequence[Span]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the spans as the kernels read them [spans, 4], and all their blocks concatenated."""
    rows: list[tuple[int, int, int, int]] = []
    blocks: list[int] = []
    for span in spans:
        rows.append((span.first_row, span.num_rows, span.context, len(blocks)))
        blocks += span.blocks
    return torch.tensor(rows, dtype=torch.int32), torch.tensor(blocks, dtype=torch.int32)
