"""The engine's decode step over the time of its model's bare matrix products, in one run.

Machines are shared and their speed changes by the minute: the two are measured in turn, and only
their ratio means something. Usage: python -m bench.step [--dtype bfloat16] [--batch 1,16]
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.functional import linear

from coordinator.models import PrepareOptions, prepare_model
from protocol.config import EngineConfig
from protocol.sampling import SamplingParams
from protocol.to_worker import Generate
from workers.build import build_engine
from workers.engine import Engine

ROUNDS = 5
STEPS = 8


def products(weights: list[torch.Tensor], batch: int) -> float:
    """Seconds of one forward's matrix products, each on as many rows as the batch has."""
    inputs = {
        size: torch.randn(batch, size, dtype=weights[0].dtype)
        for size in {weight.shape[1] for weight in weights}
    }
    started = time.perf_counter()
    for weight in weights:
        linear(inputs[weight.shape[1]], weight)
    return time.perf_counter() - started


def steps(engine: Engine, batch: int, context: int) -> float:
    """Seconds of one decode step, the median of some, after the prompts have been run."""
    for number in range(batch):
        prompt = tuple(5 + (number * 7 + place) % 1000 for place in range(context))
        engine.add(Generate(f"r{number}", prompt, SamplingParams(0, STEPS + 2, temperature=0.0)))
    while engine.load().waiting or engine.stats().step_tokens != batch:
        engine.step()
    times = []
    while engine.has_work:
        started = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="as of headrace serve (the default model)")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--context", type=int, default=160)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = prepare_model(args.model, PrepareOptions(text_path=Path(folder) / "text"))
        config = EngineConfig(
            dtype=args.dtype, threads=args.threads, enable_prefix_caching=False,
            max_num_batched_tokens=512, kv_cache_bytes=2**30, max_model_len=2048,
        )  # fmt: skip
        engine = build_engine(model.model_path, config, 1, print)
    modules = engine._runner._model.modules()  # type: ignore[attr-defined]
    weights = [module.weight for module in modules if isinstance(module, torch.nn.Linear)]
    with torch.inference_mode():
        for batch in map(int, args.batch.split(",")):
            products(weights, batch)
            floor, step = [], []
            for _ in range(ROUNDS):
                floor += [products(weights, batch) for _ in range(STEPS)]
                step.append(steps(engine, batch, args.context))
            low, high = statistics.median(floor) * 1000, statistics.median(step) * 1000
            print(f"batch {batch}: products {low:.1f} ms, step {high:.1f} ms, {high / low:.2f} x")


if __name__ == "__main__":
    main()
