"""Measure whether a worker's memory stays flat while prompts of ever new lengths are run.

Prompts come one at a time and --at-once at a time, in turn. Prints the memory of the worker each
minute, and whether it has grown since the warm-up. Exit status 1 if it has.

    HF_HUB_OFFLINE=1 python -m bench.memory [--minutes 30] [--cpu-kernels torch] [--dtype float32]
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil

from bench.load.fake_pools import pool
from bench.load.layouts import ROOT
from headrace.launcher.models.prepare_model import PrepareOptions, prepare_model

MAX_LEN = 2048
VOCABULARY = range(5, 40000)
FLAT_MIB = 32.0  # what may come and go with what is in flight


class Prompts:
    """Prompts whose lengths are in an order without repetition, of random tokens."""

    def __init__(self, longest: int, seed: int) -> None:
        self._random, self._longest = random.Random(seed), longest
        self._lengths = self._each_length_once()
        self.count = 0

    def _each_length_once(self) -> Iterator[int]:
        while True:
            yield from self._random.sample(range(1, self._longest + 1), self._longest)

    def next(self) -> list[int]:
        """Return the next prompt."""
        self.count += 1
        return self._random.choices(VOCABULARY, k=next(self._lengths))


async def ask(client: httpx.AsyncClient, prompts: Prompts, at_once: int) -> None:
    """Send so many prompts at once and wait for all answers."""

    async def complete(prompt: Sequence[int], tokens: int) -> None:
        body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
        (await client.post("/v1/completions", json=body)).raise_for_status()

    bodies = [(prompts.next(), 1 + number % 8) for number in range(at_once)]
    await asyncio.gather(*(complete(*body) for body in bodies))


async def measure(url: str, worker: psutil.Process, options: argparse.Namespace) -> list[float]:
    """Return the worker's resident MiB after each minute."""
    prompts, mib = Prompts(options.longest, options.seed), list[float]()

    async def watch() -> None:
        while len(mib) < options.minutes:
            await asyncio.sleep(60)
            mib.append(worker.memory_info().rss / 2**20)
            print(f"{len(mib):>4} min {prompts.count:>8} prompts {mib[-1]:>8.1f} MiB", flush=True)

    async with httpx.AsyncClient(base_url=url, timeout=None) as client:
        watching = asyncio.create_task(watch())
        while not watching.done():
            for at_once in [*[1] * options.at_once, options.at_once]:
                await ask(client, prompts, at_once)
                if watching.done():
                    break
        await watching
    return mib


def verdict(mib: Sequence[float], warmup: int) -> str:
    """Return "" if memory was flat after the warm-up, else by how much it has grown.

    Compared are the highest values of the first and of the last quarter of what follows it.
    """
    after = mib[warmup:]
    quarter = max(1, len(after) // 4)
    growth = max(after[-quarter:]) - max(after[:quarter])
    return "" if growth <= FLAT_MIB else f"grown by {growth:.0f} MiB"


def first_layers(folder: Path, model: str | None, layers: int) -> str:
    """Make a folder of a model without its later layers; return its path.

    What a worker keeps depends on the shapes of the layers, which are alike.
    """
    whole = prepare_model(model, PrepareOptions(text_path=folder / "text")).model_path
    (folder / "model").mkdir()
    for file in whole.iterdir():
        (folder / "model" / file.name).symlink_to(file.resolve())
    config = json.loads((whole / "config.json").read_text())
    (folder / "model/config.json").unlink()
    (folder / "model/config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    return str(folder / "model")


async def main() -> int:
    """Run the load and print the verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=int, default=30, help="with the warm-up")
    parser.add_argument("--warmup", type=int, default=8, help="minutes that may grow")
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--longest", type=int, default=1500, help="tokens of a prompt")
    parser.add_argument("--model", help="as of headrace serve (the default model)")
    parser.add_argument("--layers", type=int, help="run only the first: more prompts a minute")
    parser.add_argument("--cpu-kernels", default="torch")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantization")
    parser.add_argument("--than", type=Path, default=ROOT, help="another checkout")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    flags = ["--engine", "torch", "--cpu-kernels", options.cpu_kernels, "--dtype", options.dtype]
    flags += ["--max-model-len", str(MAX_LEN), "--kv-cache-memory-bytes", "128MiB"]
    flags += ["--quantization", options.quantization] if options.quantization else []
    with contextlib.ExitStack() as stack:
        model = options.model
        if options.layers is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hr-"))
            model = first_layers(Path(folder), options.model, options.layers)
        served = stack.enter_context(pool(options.than, model, 0.0, flags))
        mib = await measure(served.url, psutil.Process(served.worker_pid), options)
    grown = verdict(mib, options.warmup)
    print(grown or f"flat after {options.warmup} minutes")
    return int(bool(grown))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
