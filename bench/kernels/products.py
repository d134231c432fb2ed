"""Measure products with packed weights: each format over bfloat16, in turn, on each kernel set.

    python -m bench.kernels.products [--rows 1,16,512] [--formats q8_0,q4_0] [--sets avx512,avx2]

The shapes are those of a model of 0.5 billion parameters (Qwen2.5-0.5B); weights are random bytes.
A program has as many products as it takes to exceed the processor's caches. Of the best of some
runs it prints the time over bfloat16's, how fast weights are read, and products a nanosecond. One
thread is measured by its own CPU time, for machines that have other work.
"""

import argparse
import ctypes
import os
import time

import torch

from headrace.protocol.config import KernelSet
from headrace.workers.native.instructions import BufferKind
from headrace.workers.native.library import (
    OPERATIONS,
    PANEL_OUTPUTS,
    CBuffer,
    CCacheBlocks,
    CInstruction,
    COperand,
    CStep,
    Kernels,
    load_library,
    usable_kernels,
)
from headrace.workers.native.weight_format import WeightFormat
from headrace.workers.quantized.formats import BLOCK, BLOCK_FORMATS
from headrace.workers.quantized.panels import panel_bytes

SHAPES = {"gate and up": (896, 9728), "down": (4864, 896), "attention": (896, 1152)}
MIN_BYTES = 160 * 1024 * 1024  # of the weights of one program in bfloat16
_FLOAT_BYTES = 2


class Products:
    """A program of products of one shape and format. bytes: of its weights; products: of a row."""

    def __init__(
        self, kernels: Kernels, name: str, shape: tuple[int, int], threads: int, rows: int
    ) -> None:
        self._kernels, self._threads = kernels, threads
        inputs, outputs = shape
        count = 1 if rows > PANEL_OUTPUTS else -(-MIN_BYTES // (inputs * outputs * _FLOAT_BYTES))
        is_blocks = name in BLOCK_FORMATS
        weight_format = WeightFormat[name.upper()] if is_blocks else WeightFormat.FLOAT
        depth = inputs // BLOCK if is_blocks else inputs // 2
        panel = panel_bytes(name, depth) if is_blocks else inputs * PANEL_OUTPUTS * _FLOAT_BYTES
        size = outputs // PANEL_OUTPUTS * panel
        self.bytes, self.products = size * count, inputs * outputs * count
        # Small numbers, whether read as bytes, as 16-bit floats or as bfloat16.
        self._weights = torch.randint(0, 48, (self.bytes + 64,), dtype=torch.uint8)
        start = -(-self._weights.data_ptr() // 64) * 64
        kind = BufferKind.ROUNDED if is_blocks else BufferKind.PRODUCT
        buffers = (CBuffer * 2)(
            CBuffer(depth if is_blocks else inputs, kind, 1),
            CBuffer(outputs, BufferKind.FLOAT32, 1),
        )
        operations = []
        for index in range(count):
            each = CInstruction(operation=OPERATIONS.index("linear"), out=COperand(1, 0))
            each.inputs[0] = COperand(0, 0)
            each.sizes[0], each.sizes[1], each.sizes[4] = outputs, depth, weight_format
            each.sizes[5] = -1
            each.data[0] = start + index * size
            operations.append(each)
        self._list = (CInstruction * count)(*operations)
        blocks = ctypes.byref(CCacheBlocks())
        self._handle = kernels.new(True, self._list, count, buffers, 2, threads, blocks, 16, 0, 0)
        self._step = CStep(rows=rows, end=count)
        self.seconds()

    def seconds(self) -> float:
        clock = time.thread_time if self._threads == 1 else time.perf_counter
        started = clock()
        self._kernels.run(True, self._handle, ctypes.byref(self._step))
        return clock() - started

    def close(self) -> None:
        self._kernels.delete(True, self._handle)


def measure(kernels: Kernels, names: list[str], rows: int, threads: int, rounds: int) -> None:
    for shape_name, shape in SHAPES.items():
        fitting = [n for n in names if shape[0] % BLOCK_FORMATS[n].inputs == 0]
        programs = {n: Products(kernels, n, shape, threads, rows) for n in ("bf16", *fitting)}
        times = {n: [program.seconds()] for n, program in programs.items()}
        for _ in range(rounds):
            for n, program in programs.items():
                times[n].append(program.seconds())
        for n, program in programs.items():
            best = min(times[n])
            print(
                f"{kernels.name:9} rows {rows:4} {shape_name:12} {n:7}"
                f" {min(times['bf16']) / best:6.2f} x bf16"
                f" {program.bytes / best / 1e9:7.1f} GB/s"
                f" {program.products * rows / best / 1e9:8.1f} products/ns",
                flush=True,
            )
            program.close()


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--rows", type=lambda text: [int(each) for each in text.split(",")], default=[1, 16, 512])
    add("--formats", type=lambda text: text.split(","), default=list(BLOCK_FORMATS))
    add("--sets", type=lambda text: text.split(","), default=usable_kernels())
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--rounds", type=int, default=7)
    options = parser.parse_args()
    sets: list[KernelSet] = options.sets
    for name in sets:
        kernels = load_library(name)
        if kernels is None:
            parser.error(f"the kernels for {name} were not built")
        for rows in options.rows:
            measure(kernels, options.formats, rows, options.threads, options.rounds)


if __name__ == "__main__":
    main()
