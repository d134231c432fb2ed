"""Measure how close the engine comes to the limits of the machine: ratios, each with its bar.

    GOMP_SPINCOUNT=10000 HF_HUB_OFFLINE=1 python -m bench.roofline [--only decode,prefill]

Workers are started with this GOMP_SPINCOUNT. The floor of decode and prefill is the time of the
model's bare matrix products (`torch.nn.functional.linear` on unpacked weights, in the same process
with the same number of threads); the head runs once for each sampled row. Both sides of a ratio are
timed in turn, and only the ratios of one run compare: machines are shared, and their speed changes
by the minute.

decode    a step at batch 1, 16 and 64, context 160, over the products
prefill   a prompt of 512 tokens over the products
context   decode at context 2,000 over context 160, batch 16
arrival   a prompt of 4,000 tokens among 8 streams: p99 between tokens over the median before it
turn      second turn of a chat of 2,000 tokens over the first, until the first token
limits    for each instruction set of --cpu-kernels, only where it is named: the share of the
          memory's bandwidth (decode at batch 1) and of the cores' multiply rate (prefill of 512)
memory    resident memory of a real worker over weights and cache
overhead  what frontend, queue and engine loop add to a token at batch 1

`--than FOLDER` runs another checkout's bench.roofline (of either layout, see bench/load/layouts.py)
in turn with this one, each in processes of its own, and prints the ratios of their results.

Exits with status 1 if a bar is missed and --strict is given.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench.roof import checks
from bench.roof.comparison import compare_checkouts
from bench.roof.driver import Driver
from bench.roof.floor import Floor, ModelSizes, read_sizes
from bench.roof.limits import limits
from bench.roof.memory import memory
from bench.roof.overhead import overhead
from bench.roof.probes import load_probes
from bench.roof.rounds import Outcome
from headrace.launcher.command.options import parse_size
from headrace.launcher.models.prepare_model import PrepareOptions, prepare_model
from headrace.protocol.config import EngineConfig, KernelSet
from headrace.workers.build import build_engine
from headrace.workers.native.library import usable_kernels

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
CHECKS: dict[str, Callable[[checks.Bench], list[Outcome]]] = {
    "decode": checks.decode,
    "prefill": checks.prefill,
    "context": checks.context,
    "arrival": checks.arrival,
    "turn": checks.turn,
}
DEFAULT_NAMES = (*CHECKS, "memory", "overhead")
NAMES = (*DEFAULT_NAMES, "limits")  # they take an engine for each instruction set


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements; return the exit status."""
    options = parse(arguments)
    if options.than is not None:
        return _compare(options)
    with tempfile.TemporaryDirectory() as folder:
        prepare = PrepareOptions(text_path=Path(folder) / "text")
        model_path = prepare_model(options.model, prepare).model_path
    sizes = read_sizes(model_path)
    if "GOMP_SPINCOUNT" not in os.environ:
        print("GOMP_SPINCOUNT is not set: workers are started with GOMP_SPINCOUNT=10000")
    outcomes = []
    for outcome in _measure(options, model_path, sizes):
        print(outcome.line(), flush=True)
        outcomes.append(outcome)
    if options.json is not None:
        options.json.write_text(json.dumps(_report(options, outcomes), indent=1) + "\n")
    return int(options.strict and not all(outcome.passed for outcome in outcomes))


def _compare(options: argparse.Namespace) -> int:
    """Run the measurements in this checkout and in another, in turn; return the exit status."""
    flags = ["--only", ",".join(options.only), "--dtype", options.dtype]
    flags += ["--model", options.model] if options.model else []
    for name in ("threads", "rounds", "repeats", "kv_cache_bytes"):
        flags += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    compared = compare_checkouts(options.than, flags, options.runs)
    if options.json is not None:
        options.json.write_text(json.dumps(compared, indent=1) + "\n")
    return 0


def _measure(options: argparse.Namespace, model_path: Path, sizes: ModelSizes) -> Iterator[Outcome]:
    dtype = DTYPES[options.dtype]
    if "memory" in options.only:  # first: the engine below takes a gigabyte or two itself
        yield memory(options.model, options.dtype, sizes, dtype.itemsize)
    if "overhead" in options.only:
        yield overhead(options.model, sizes.vocab_size, options.rounds)
    if "limits" in options.only:
        for kernels in options.cpu_kernels:
            yield from _limits(options, kernels, model_path, sizes)
    names = [name for name in options.only if name in CHECKS]
    if not names:
        return
    config = EngineConfig(
        dtype=options.dtype, threads=options.threads, kv_cache_bytes=options.kv_cache_bytes
    )
    engine = build_engine(model_path, config, 1, print)
    torch.set_num_threads(options.threads)  # an engine with threads of its own may have lowered it
    floor = Floor(sizes, dtype)
    bench = checks.Bench(Driver(engine, sizes.vocab_size), floor, options.rounds, options.repeats)
    with torch.inference_mode():
        for name in names:
            yield from CHECKS[name](bench)


def _limits(
    options: argparse.Namespace, kernels: KernelSet, model_path: Path, sizes: ModelSizes
) -> Iterator[Outcome]:
    config = EngineConfig(
        dtype=options.dtype, threads=options.threads, kv_cache_bytes=options.kv_cache_bytes,
        cpu_kernels=kernels,
    )  # fmt: skip
    driver = Driver(build_engine(model_path, config, 1, print), sizes.vocab_size)
    probes = load_probes(kernels, options.threads)
    yield from limits(kernels, driver, sizes, probes, options.rounds, options.repeats)


def _report(options: argparse.Namespace, outcomes: list[Outcome]) -> dict[str, object]:
    settings = {name: getattr(options, name) for name in ("dtype", "threads", "rounds", "repeats")}
    return settings | {"outcomes": [outcome.as_json() for outcome in outcomes]}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options; an invalid one exits with a line that names it."""
    parser = argparse.ArgumentParser(
        prog="bench/roofline.py", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--only", type=_names, default=DEFAULT_NAMES, help=f"some of {','.join(NAMES)}")
    add("--model", help="as of headrace serve (default: the default model)")
    add("--dtype", choices=tuple(DTYPES), default="bfloat16", help="of engine and floor")
    sets = usable_kernels()
    add("--cpu-kernels", nargs="+", choices=sets, default=sets, metavar="SET", help="of limits")
    add("--threads", type=_positive, default=len(os.sched_getaffinity(0)), help="of both")
    add("--rounds", type=_positive, default=5, help="how often the two sides take turns")
    add("--repeats", type=_positive, default=5, help="timings of each turn")
    add("--kv-cache-bytes", type=_size, default="1.5GiB", help="of the engine")
    add("--json", type=Path, metavar="FILE", help="write the results there, too")
    add("--strict", action="store_true", help="exit with status 1 if a bar is missed")
    add("--than", type=Path, metavar="FOLDER", help="another checkout, to compare with")
    add("--runs", type=_positive, default=3, help="with --than: of each checkout")
    return parser.parse_args(arguments)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(NAMES)}")
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
