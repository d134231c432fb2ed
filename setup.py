"""Adds to setup.cfg the compiled kernels, without which Headrace works too, but slower."""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "headrace.workers.native.kernels",
            sources=[f"workers/native/src/{name}.cpp" for name in ("program", "draw", "quantized")],
            depends=sorted(str(path) for path in Path("workers/native/src").rglob("*.h")),
            # Used only on processors that have these instructions: see workers/native/library.py.
            extra_compile_args=[
                "-std=c++17", "-O3", "-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni", "-pthread",
                "-DHEADRACE_AVX512", "-Wno-maybe-uninitialized",
            ],
            extra_link_args=["-pthread"],
            optional=True,
        ),
        Extension(
            "headrace.workers.quantized.decoder",
            sources=["workers/quantized/src/decode.cpp"],
            # Products and sums must be rounded one by one: see the source.
            extra_compile_args=["-std=c++17", "-O3", "-ffp-contract=off"],
            optional=True,
        ),
    ]
)  # fmt: skip
