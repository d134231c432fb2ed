"""Let each Python process run as on a processor that has AVX2 and no AVX-512.

Python imports this module at its start if its folder is in PYTHONPATH, and so does each process
that it starts (docs/testing.md). torch and oneDNN read the environment; the answers of our kernels'
`supported` and of /proc/cpuinfo are replaced. oneDNN keeps VNNI: see docs/testing.md.
"""

import ctypes
import os
import pathlib
import re
from typing import Any

os.environ["ATEN_CPU_CAPABILITY"] = "avx2"
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2_VNNI")


class CDLL(ctypes.CDLL):
    """A library that says, if it is one of our kernels for newer processors, that it cannot run."""

    def __getattr__(self, name: str) -> Any:
        if name == "headrace_supported" and re.search("avx512|vnni", str(self._name)):
            return ctypes.CFUNCTYPE(ctypes.c_int32)(lambda: 0)
        return super().__getattr__(name)


ctypes.CDLL = CDLL  # type: ignore[misc]

_read_text = pathlib.Path.read_text


def _read_text_without_avx512(self: pathlib.Path, *args: object, **options: object) -> str:
    text = _read_text(self, *args, **options)  # type: ignore[arg-type]
    if str(self) != "/proc/cpuinfo":
        return text
    return re.sub(r" (avx512|amx|avx_vnni)\w*", "", text)


pathlib.Path.read_text = _read_text_without_avx512  # type: ignore[method-assign]
