"""Measure how fast cores read memory and multiply, with each instruction set's own instructions.

The probes are compiled when they are needed, with the flags of the kernels for the same set.
"""

import ctypes
import functools
import os
import runpy
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from unittest import mock

import torch

from bench.load.layouts import ROOT
from headrace.protocol.config import KernelSet

SOURCE = Path(__file__).with_name("probes.cpp")
READ_BYTES = 256 * 2**20  # far more than caches hold
MULTIPLY_ROUNDS = 100_000


class Numbers(IntEnum):
    """What is multiplied, as in probes.cpp."""

    FLOATS = 0
    PAIRS = 1
    CODES = 2
    BYTES = 3


@dataclass(frozen=True, slots=True)
class Probes:
    """The probes of one instruction set."""

    library: ctypes.CDLL
    threads: int

    @property
    def clock(self) -> Callable[[], float]:
        """One thread is measured by its own CPU time, for machines that have other work."""
        return time.thread_time if self.threads == 1 else time.perf_counter

    def read(self) -> float:
        """Return how many bytes a second the threads read together."""
        memory, started_s = _memory(), self.clock()
        self.library.probe_read(memory.data_ptr(), READ_BYTES, self.threads)
        return READ_BYTES / (self.clock() - started_s)

    def multiply(self, numbers: Numbers) -> float:
        """Return how many multiplications a second the threads make together."""
        started_s = self.clock()
        count: float = self.library.probe_multiply(int(numbers), MULTIPLY_ROUNDS, self.threads)
        return count / (self.clock() - started_s)


def load_probes(name: KernelSet, threads: int) -> Probes:
    """Compile and load the probes. Raises OSError or CalledProcessError if that is impossible."""
    library = ctypes.CDLL(str(_compile(name)))
    library.probe_read.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32)
    library.probe_multiply.argtypes = (ctypes.c_int32, ctypes.c_int64, ctypes.c_int32)
    library.probe_multiply.restype = ctypes.c_double
    return Probes(library, threads)


@functools.cache
def _compile(name: KernelSet) -> Path:
    file = Path(tempfile.mkdtemp(prefix="headrace-probes-")) / f"{name}.so"
    compiler = os.environ.get("CXX", "g++")
    include = ROOT / "workers" / "native" / "src"
    command = [compiler, *_flags(name), "-shared", "-fPIC", f"-I{include}", str(SOURCE)]
    subprocess.run([*command, "-o", str(file)], check=True)
    return file


def _flags(name: KernelSet) -> list[str]:
    """Return the compiler's flags of a set's kernels, as setup.py gives them."""
    with mock.patch("setuptools.setup"):
        setup = runpy.run_path(str(ROOT / "setup.py"))
    return [*setup["FLAGS"], *setup["sets"][name]]


@functools.cache
def _memory() -> torch.Tensor:
    return torch.ones(READ_BYTES // 4, dtype=torch.int32)
