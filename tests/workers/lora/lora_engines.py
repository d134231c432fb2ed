"""Engines with LoRA on tiny models, and what PEFT says that they must answer."""

import random
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from headrace.protocol.config import CpuKernels, EngineConfig
from headrace.protocol.to_worker import Generate
from headrace.workers.build import build_engine
from headrace.workers.engine.engine import Engine
from tests.lora_adapters import load_with_adapter, make_adapter
from tests.workers.driving import request
from tests.workers.tiny_models import VOCAB, save_tiny

NEW = 10
NEAR = 1e-4  # logits closer than this are equal but for float32's rounding

# What can differ between adapters. Layers' names: of Llama's kind, and of GPT-2.
KINDS: dict[str, dict[str, Any]] = {
    "usual": {"rank": 8},
    "wide": {"rank": 16, "lora_alpha": 8, "targets": "all-linear"},
    "stable": {"rank": 4, "lora_alpha": 3, "use_rslora": True, "targets": ["o_proj", "up_proj"]},
    "patterns": {
        "rank": 3,
        "targets": ["q_proj", "k_proj", "down_proj"],
        "rank_pattern": {"q_proj": 5, r"layers\.1\..*down_proj": 2},
        "alpha_pattern": {"k_proj": 7, "layers.0.self_attn.q_proj": 1},
    },
}
GPT2_TARGETS = {"o_proj": "c_proj", "up_proj": "c_fc", "q_proj": "c_attn", "down_proj": "c_proj"}


@dataclass
class Tiny:
    """A tiny model's folder, and adapters for it by their kinds. kernels: what runs it."""

    path: Path
    adapters: dict[str, Path]
    kernels: CpuKernels = "auto"

    def engine(self, **options: Any) -> Engine:
        """An engine that has the adapters, by the names of their kinds."""
        engine = build_engine(self.path, self.config(**options), 1, lambda line: None)
        for name, folder in self.adapters.items():
            engine.add_adapter(name, folder)
        return engine

    def config(self, **options: Any) -> EngineConfig:
        settings = {
            "dtype": "float32",
            "device": "cpu",
            "threads": 1,
            "kv_cache_bytes": 2**20,
            "max_num_seqs": 16,
            "enable_lora": True,
            "cpu_kernels": self.kernels,
            **options,
        }
        return EngineConfig(**settings)

    def check(self, name: str, prompt: tuple[int, ...], tokens: list[int]) -> None:
        """The tokens must be PEFT's, up to its first near tie."""
        theirs, gaps = _text(self.path, self.adapters.get(name), prompt, len(tokens))
        for index, (our, their) in enumerate(zip(tokens, theirs, strict=True)):
            if gaps[index] < NEAR:
                return
            assert our == their, f"adapter {name!r}, token {index}"


def make_tiny(
    folder: Path,
    model: str,
    kinds: dict[str, dict[str, Any]] = KINDS,
    kernels: CpuKernels = "auto",
) -> Tiny:
    path = folder / "model"
    save_tiny(path, model)
    adapters = {}
    for seed, (name, kind) in enumerate(kinds.items()):
        options = _for_gpt2(kind) if model == "gpt2" else kind
        adapters[name] = make_adapter(folder / name, path, seed=seed, **options)
    return Tiny(path, adapters, kernels)


def make_prompts(count: int, shortest: int = 1, longest: int = 40) -> list[tuple[int, ...]]:
    rng = random.Random(3)
    return [
        tuple(rng.randrange(VOCAB) for _ in range(rng.randint(shortest, longest)))
        for _ in range(count)
    ]


def adapted(name: str, prompt: tuple[int, ...], adapter: str = "", **params: Any) -> Generate:
    asked = request(name, prompt, **{"max_tokens": NEW, **params})
    return replace(asked, adapter=adapter)


@cache
def reference(path: Path, adapter: Path | None) -> Any:
    return load_with_adapter(path, adapter)


@cache
@torch.inference_mode()
def _text(
    path: Path, adapter: Path | None, prompt: tuple[int, ...], count: int
) -> tuple[list[int], list[float]]:
    """PEFT's greedy text, and how far apart the two best logits were at each token."""
    tokens, gaps = list(prompt), []
    for _ in range(count):
        logits = reference(path, adapter)(input_ids=torch.tensor([tokens]), use_cache=False).logits
        best = logits[0, -1].topk(2)
        gaps.append(float(best.values[0] - best.values[1]))
        tokens.append(int(best.indices[0]))
    return tokens[len(prompt) :], gaps


def _for_gpt2(kind: dict[str, Any]) -> dict[str, Any]:
    targets = kind.get("targets")
    if not isinstance(targets, list):
        return kind
    named = sorted({GPT2_TARGETS[name] for name in targets if name in GPT2_TARGETS})
    patterns = {
        "rank_pattern": {"c_attn": 5, r"h\.1\..*c_proj": 2},
        "alpha_pattern": {"c_attn": 7, "h.0.mlp.c_proj": 1},
    }
    return {**kind, "targets": named} | (patterns if "rank_pattern" in kind else {})
