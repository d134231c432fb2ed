"""Adds to setup.cfg the compiled kernels, without which Headrace works too, but slower.

There is one library of kernels for each instruction set, all from the same sources; which of them a
worker loads is decided in workers/native/library.py. One that fails to compile stops no other.
"""

import copy
import os
import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = [f"workers/native/src/{name}.cpp" for name in ("program", "draw", "quantized")]
# Contraction of products and sums differs between places where the same function is inlined, and
# so would results; where sums are to be fused, the sources say so.
FLAGS = [
    "-std=c++17", "-O3", "-g0", "-pthread", "-ffp-contract=off", "-fvisibility=hidden",
    "-Wno-maybe-uninitialized", "-Wno-uninitialized", "-Wno-psabi",  # of GCC's own headers
]  # fmt: skip
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mpopcnt", "-DHEADRACE_AVX2"]
X86 = {
    "avx512": ["-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni", "-DHEADRACE_AVX512"],
    "avx2vnni": [*AVX2, "-mavxvnni"],
    "avx2": AVX2,
}
ARM = {"neon": ["-march=armv8.2-a+dotprod", "-DHEADRACE_NEON"]}
BY_MACHINE = {"x86_64": X86, "aarch64": ARM}


def kernels(name: str, flags: list[str]) -> Extension:
    return Extension(
        f"headrace.workers.native.kernels_{name}",
        sources=SOURCES,
        depends=sorted(str(path) for path in Path("workers/native/src").rglob("*.h")),
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=["-pthread"],
        optional=True,
    )


class BuildEach(build_ext):
    """Compiles each extension in a folder of its own: several have the same sources, with flags
    that differ, and are built at the same time."""

    def build_extension(self, ext: Extension) -> None:
        builder = copy.copy(self)
        builder.build_temp = os.path.join(self.build_temp, ext.name)
        build_ext.build_extension(builder, ext)


decoder = Extension(
    "headrace.workers.quantized.decoder",
    sources=[f"workers/quantized/src/{name}.cpp" for name in ("decode", "pack")],
    depends=["workers/quantized/src/blocks.h"],
    # Products and sums must be rounded one by one: see the source.
    extra_compile_args=["-std=c++17", "-O3", "-g0", "-ffp-contract=off"],
    optional=True,
)
sets = {**BY_MACHINE.get(platform.machine(), {}), "portable": []}
setup(
    ext_modules=[*(kernels(name, flags) for name, flags in sets.items()), decoder],
    cmdclass={"build_ext": BuildEach},
    options={"build_ext": {"parallel": os.cpu_count()}},
)
