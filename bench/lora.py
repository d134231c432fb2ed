"""What adapters cost: the same steps without LoRA, with it switched on, and with adapters in use.

    GOMP_SPINCOUNT=10000 HF_HUB_OFFLINE=1 python -m bench.lora

compiled   without LoRA, on the compiled CPU kernels
none       with --enable-lora, no request with an adapter
one        all requests with the same adapter
mixed      requests take turns at 8 adapters
few        one request of the batch has an adapter
torch      without LoRA, on torch's operations; torch-mixed: as mixed

Adapters are random, of one rank, on all linear layers of the model, as PEFT writes them. Decode
is a step of so many streams at a context of about 64 tokens; prefill is 8 prompts of 64 tokens
until their first tokens. All take turns; figures are ratios to `compiled` of the same round,
medians.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from headrace.launcher.models.prepare_model import PrepareOptions, prepare_model
from headrace.protocol.config import EngineConfig
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.build import build_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.lora.files import LayerShape
from headrace.workers.native.runner import NativeRunner
from headrace.workers.torch_runner.model_runner import ModelRunner

BASE = "compiled"
ADAPTERS = 8
CONTEXT = 64
PROMPTS, PROMPT_TOKENS = 8, 64
FIRST_TOKEN_ID = 1000  # below are special tokens and single bytes

Choose = Callable[[int], str]  # the adapter of the request of that number


def write_adapter(folder: Path, layers: dict[str, LayerShape], rank: int, seed: int) -> Path:
    """A random adapter for these layers, as PEFT writes it; the folder."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in layers.items():
        prefix = f"base_model.model.{name}"
        down = torch.randn((rank, shape.inputs), generator=generator) * 0.01
        tensors[f"{prefix}.lora_A.weight"] = down
        up = torch.randn((shape.outputs, rank), generator=generator) * 0.01
        tensors[f"{prefix}.lora_B.weight"] = up
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


class Variant:
    """An engine, and which adapters its requests have."""

    def __init__(self, engine: Engine, choose: Choose = lambda number: "") -> None:
        self._engine, self._choose = engine, choose
        self._rng = random.Random(0)
        self._count = 0

    def decode(self, streams: int, steps: int) -> float:
        """Seconds of a step, the fastest of so many: others use the machine, too."""
        self._start(streams, CONTEXT - steps // 2, max_tokens=1000)
        times = []
        for _ in range(steps):
            started_s = time.perf_counter()
            self._engine.step()
            times.append(time.perf_counter() - started_s)
        self._stop()
        return min(times)

    def prefill(self) -> float:
        """Seconds from the arrival of some prompts to the last of their first tokens."""
        started_s = time.perf_counter()
        self._start(PROMPTS, PROMPT_TOKENS, max_tokens=2)
        seconds = time.perf_counter() - started_s
        self._stop()
        return seconds

    def _start(self, streams: int, prompt_tokens: int, max_tokens: int) -> None:
        """Run prompts until each has its first token."""
        waiting = set()
        self._names = []
        vocab_size = self._engine.runner.vocab_size
        for number in range(streams):
            self._count += 1
            name = f"r{self._count}"
            prompt = tuple(self._rng.choices(range(FIRST_TOKEN_ID, vocab_size), k=prompt_tokens))
            sampling = SamplingParams(seed=0, max_tokens=max_tokens, temperature=0.0)
            adapter = self._choose(number)
            self._engine.add(Generate(name, prompt, sampling, adapter=adapter))
            waiting.add(name)
            self._names.append(name)
        while waiting:
            waiting -= {output.request_id for output in self._engine.step()}

    def _stop(self) -> None:
        for name in self._names:
            self._engine.abort(name)


def make_variants(
    model_path: Path, folder: Path, options: argparse.Namespace
) -> dict[str, Variant]:
    def build(**settings: object) -> Engine:
        config = EngineConfig.model_validate(
            {
                "dtype": options.dtype,
                "threads": options.threads,
                "kv_cache_bytes": 256 * 2**20,
                "enable_prefix_caching": False,
                "max_loras": ADAPTERS,
                "max_lora_rank": options.rank,
                **settings,
            }
        )
        return build_engine(model_path, config, 1, print)

    def with_adapters(kernels: str) -> Engine:
        engine = build(enable_lora=True, cpu_kernels=kernels)
        runner = engine.runner
        assert isinstance(runner, ModelRunner | NativeRunner)
        for number in range(ADAPTERS):
            path = folder / f"adapter{number}"
            if not path.exists():
                write_adapter(path, runner.adapter_layers, options.rank, number)
            engine.add_adapter(f"a{number}", path)
        return engine

    compiled, on_torch = with_adapters("native"), with_adapters("torch")
    return {
        BASE: Variant(build()),
        "none": Variant(compiled),
        "one": Variant(compiled, lambda number: "a3"),
        "mixed": Variant(compiled, lambda number: f"a{number % ADAPTERS}"),
        "few": Variant(compiled, lambda number: "a3" if number == 0 else ""),
        "torch": Variant(build(cpu_kernels="torch")),
        "torch-mixed": Variant(on_torch, lambda number: f"a{number % ADAPTERS}"),
    }


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare_model(options.model, PrepareOptions(text_path=folder / "text"))
        variants = make_variants(prepared.model_path, folder, options)
        measures: dict[str, Callable[[Variant], float]] = {
            f"decode, batch {streams}": partial(
                Variant.decode, streams=streams, steps=options.steps
            )
            for streams in options.streams
        }
        measures[f"prefill, {PROMPTS} x {PROMPT_TOKENS}"] = Variant.prefill
        for title, measure in measures.items():
            print(title, report(variants, measure, options.rounds), flush=True)


def report(variants: dict[str, Variant], measure: Callable[[Variant], float], rounds: int) -> str:
    """Each variant's time as a multiple of BASE's, and that in ms."""
    for variant in variants.values():  # what the first run pays for
        measure(variant)
    times = [{name: measure(each) for name, each in variants.items()} for _ in range(rounds)]
    base_ms = statistics.median(each[BASE] for each in times) * 1000
    ratios = {
        name: statistics.median(each[name] / each[BASE] for each in times) for name in variants
    }
    return f"{BASE} {base_ms:.1f} ms; " + ", ".join(
        f"{name} {ratio:.2f}" for name, ratio in ratios.items() if name != BASE
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/lora.py")
    parser.add_argument("--model", help="as of headrace serve (default: the default model)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rank", type=int, choices=(8, 16, 32, 64), default=16)
    parser.add_argument("--streams", type=int, nargs="+", default=(1, 8, 32))
    parser.add_argument("--steps", type=int, default=12, help="decode steps of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
