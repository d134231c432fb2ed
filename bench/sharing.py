"""Measure what shared packed weights cost and save: step times, start times and memory.

Steps: one process has the model three times, with private weights, with weights that it shares, and
with weights that another shares with it, and runs them in turn. Ratios are to the first; 1 means no
difference.

Starts and memory: pools of this checkout and of another (`--than`, whose workers share nothing)
with so many workers each; in each round one worker of each pool is killed.

    GOMP_SPINCOUNT=10000 HF_HUB_OFFLINE=1 python -m bench.sharing [--dtype float32] [--than FOLDER]
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
from pathlib import Path

import psutil
import torch

from bench.load.fake_pools import pool
from bench.load.http import Server
from bench.load.layouts import ROOT, layout_of
from bench.recovery import until_ready
from bench.roof.driver import Driver
from bench.roof.floor import read_sizes
from bench.roof.rounds import Turn, alternate, repeated
from bench.starting import MeasuredPool, memory_mib
from headrace.launcher.models.prepare_model import PrepareOptions, prepare_model
from headrace.protocol.config import EngineConfig
from headrace.workers.build import build_engine
from headrace.workers.native.shared_file import SharedFile

VARIANTS = ("shared by it", "shared with it")
CONTEXT = 160
PREFILL_TOKENS = 512
CACHE_BYTES = 512 * 2**20


def measure_steps(model_path: Path, options: argparse.Namespace) -> None:
    """Print the ratios of step and prefill times, shared over private."""
    config = EngineConfig(
        dtype=options.dtype,
        threads=options.threads,
        kv_cache_bytes=CACHE_BYTES,
        quantization=options.quantization,
        enable_prefix_caching=False,
    )
    fd = os.memfd_create("bench")
    file = SharedFile(Path(f"/proc/self/fd/{fd}"), "bench")
    size = read_sizes(model_path).vocab_size
    private, *shared = [
        Driver(build_engine(model_path, config, 1, print, shared_file=shared_file), size)
        for shared_file in (None, file, file)
    ]
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        for batch in (1, 16):
            for driver in (private, *shared):
                driver.start([driver.prompt(CONTEXT) for _ in range(batch)])
            for variant, driver in zip(VARIANTS, shared, strict=True):
                turns = repeated(driver.step), repeated(private.step)
                compare(f"decode, batch {batch}, {variant}", *turns, options)
            for driver in (private, *shared):
                driver.stop()
        for variant, driver in zip(VARIANTS, shared, strict=True):
            compare(f"prefill, {variant}", first_token(driver), first_token(private), options)


def first_token(driver: Driver) -> Turn:
    """Return the prefills of a prompt as what `alternate` times."""
    return repeated(lambda: driver.first_token(driver.prompt(PREFILL_TOKENS)))


def compare(name: str, shared: Turn, private: Turn, options: argparse.Namespace) -> None:
    """Time both in turn and print their ratio."""
    timed = alternate(shared, private, options.rounds, options.repeats)
    print(timed.outcome(name, 1.02, "shared", "private").line(), flush=True)


async def measure_pools(workers: int, options: argparse.Namespace) -> None:
    """Print the memory and the start times of workers in both checkouts."""
    flags = ["--engine", "torch", "--dtype", options.dtype, "--workers", str(workers)]
    flags += ["--kv-cache-memory-bytes", "64MiB", "--max-model-len", "1024"]
    checkouts = {"shared": ROOT, "private": options.than}
    with contextlib.ExitStack() as stack:
        pools: list[MeasuredPool] = []
        for name, checkout in checkouts.items():
            served = stack.enter_context(pool(checkout, options.model, 0.0, flags))
            launcher = psutil.Process(psutil.Process(served.worker_pid).ppid())
            server, layout = Server(served.url, {}), layout_of(checkout)
            pools.append(MeasuredPool(name, 0.0, server, launcher, layout))
            await until_ready(server, workers)
        for measured in pools:
            processes = measured.processes(measured.layout.worker)
            pss = [memory_mib(process.pid)[1] for process in processes]
            print(f"{workers} workers, {measured.name}: {sum(pss)} MiB, each {pss}", flush=True)
        replacements: dict[str, list[float]] = {measured.name: [] for measured in pools}
        for _ in range(options.rounds if workers > 1 else 0):
            for measured in pools:
                replacements[measured.name].append(await measured.replace_worker(workers))
        for name, seconds in replacements.items():
            if seconds:
                spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
                print(f"{workers} workers, {name}: one is replaced after "
                      f"{statistics.median(seconds):.2f} s ({spread})", flush=True)  # fmt: skip
        for measured in pools:
            await measured.server.close()


async def main() -> None:
    """Measure steps, or pools if another checkout is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantization", choices=("int8", "int8_dynamic"))
    parser.add_argument("--model", help="as of headrace serve (the default model)")
    parser.add_argument("--than", type=Path, help="another checkout: measure pools, not steps")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    if options.than is None:
        with tempfile.TemporaryDirectory() as folder:
            prepare = PrepareOptions(text_path=Path(folder) / "text")
            model_path = prepare_model(options.model, prepare).model_path
        measure_steps(model_path, options)
        return
    for workers in options.workers:
        await measure_pools(workers, options)


if __name__ == "__main__":
    asyncio.run(main())
