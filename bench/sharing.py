"""What it costs and saves that workers share packed weights: steps, starts and memory.

Steps: one process has the model three times, with weights of its own, with weights that it has
shared and with weights as it gets them from another, and runs them in turn. Each ratio is that to
the first; 1 is no difference.

Starts and memory: pools of this build and of another (`--than`, a source folder whose workers share
nothing) with so many workers each; in each round one worker of each pool is killed.

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

from bench.frontend import ROOT, pool
from bench.load.http import Server
from bench.recovery import until_ready
from bench.roof.driver import Driver
from bench.roof.floor import read_sizes
from bench.roof.rounds import Turn, alternate, repeated
from bench.starting import Form, memory_mib
from headrace.launcher.models.prepare_model import PrepareOptions, prepare_model
from headrace.protocol.config import EngineConfig
from headrace.workers.build import build_engine
from headrace.workers.native.shared_file import SharedFile

FORMS = ("shared by it", "shared with it")
CONTEXT = 160
PREFILL_TOKENS = 512
CACHE_BYTES = 512 * 2**20


def steps(model_path: Path, options: argparse.Namespace) -> None:
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
        Driver(build_engine(model_path, config, 1, print, shared_file=each), size)
        for each in (None, file, file)
    ]
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        for batch in (1, 16):
            for driver in (private, *shared):
                driver.start([driver.prompt(CONTEXT) for _ in range(batch)])
            for form, driver in zip(FORMS, shared, strict=True):
                turns = repeated(driver.step), repeated(private.step)
                compare(f"decode, batch {batch}, {form}", *turns, options)
            for driver in (private, *shared):
                driver.stop()
        for form, driver in zip(FORMS, shared, strict=True):
            compare(f"prefill, {form}", first_token(driver), first_token(private), options)


def first_token(driver: Driver) -> Turn:
    return repeated(lambda: driver.first_token(driver.prompt(PREFILL_TOKENS)))


def compare(name: str, shared: Turn, private: Turn, options: argparse.Namespace) -> None:
    timed = alternate(shared, private, options.rounds, options.repeats)
    print(timed.outcome(name, 1.02, "shared", "private").line(), flush=True)


async def pools(workers: int, options: argparse.Namespace) -> None:
    flags = ["--engine", "torch", "--dtype", options.dtype, "--workers", str(workers)]
    flags += ["--kv-cache-memory-bytes", "64MiB", "--max-model-len", "1024"]
    sources = {"shared": ROOT, "private": options.than}
    with contextlib.ExitStack() as stack:
        forms = []
        for name, source in sources.items():
            served = stack.enter_context(pool(source, options.model, 0.0, flags))
            launcher = psutil.Process(psutil.Process(served.worker_pid).ppid())
            forms.append(Form(name, 0.0, Server(served.url, {}), launcher))
            await until_ready(forms[-1].server, workers)
        for form in forms:
            pids = [each.pid for each in form.processes("headrace.workers.main")]
            pss = [memory_mib(pid)[1] for pid in pids]
            print(f"{workers} workers, {form.name}: {sum(pss)} MiB, each {pss}", flush=True)
        taken: dict[str, list[float]] = {form.name: [] for form in forms}
        for _ in range(options.rounds if workers > 1 else 0):
            for form in forms:
                taken[form.name].append(await form.replace_worker(workers))
        for name, seconds in taken.items():
            if seconds:
                spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
                print(f"{workers} workers, {name}: one is back after "
                      f"{statistics.median(seconds):.2f} s ({spread})", flush=True)  # fmt: skip
        for form in forms:
            await form.server.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantization", choices=("int8", "int8_dynamic"))
    parser.add_argument("--model", help="the default one unless given")
    parser.add_argument("--than", type=Path, help="a source folder: measure pools, not steps")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    if options.than is None:
        with tempfile.TemporaryDirectory() as folder:
            prepare = PrepareOptions(text_path=Path(folder) / "text")
            model_path = prepare_model(options.model, prepare).model_path
        steps(model_path, options)
        return
    for workers in options.workers:
        await pools(workers, options)


if __name__ == "__main__":
    asyncio.run(main())
