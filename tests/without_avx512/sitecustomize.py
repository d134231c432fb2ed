"""Let each Python process run as on a processor that has AVX2 and no AVX-512.

A process takes this module with its folder in PYTHONPATH, and so do those that it starts (see
docs/testing.md). What is asked what the processor can do: torch and oneDNN, which read the
environment; torch's check for bfloat16 in oneDNN, our kernels' `level` and the flags in
/proc/cpuinfo, whose answers are replaced.
"""

import builtins
import ctypes
import importlib
import importlib.util
import os
import pathlib
import sys
from importlib.machinery import ModuleSpec

os.environ["ATEN_CPU_CAPABILITY"] = "avx2"
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"


class CDLL(ctypes.CDLL):
    """A library that says of the processor, if it is our kernels, that it can run none of them."""

    def __getattr__(self, name: str) -> object:
        if name == "headrace_level":
            return ctypes.CFUNCTYPE(ctypes.c_int32)(lambda: 0)
        return super().__getattr__(name)


ctypes.CDLL = CDLL  # type: ignore[misc]

_read_text = pathlib.Path.read_text


def _read_text_without_avx512(self: pathlib.Path, *args: object, **options: object) -> str:
    text = _read_text(self, *args, **options)  # type: ignore[arg-type]
    if str(self) != "/proc/cpuinfo":
        return text
    return " ".join(each for each in text.split(" ") if not each.startswith(("avx512", "amx")))


pathlib.Path.read_text = _read_text_without_avx512  # type: ignore[method-assign,assignment]
