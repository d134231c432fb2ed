"""Compiled programs whose cache is less exact than the model, against torch's operations."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from headrace.protocol.config import EngineConfig, KernelSet
from headrace.workers import load_runner
from headrace.workers.attention.backend import AttentionBatch, AttentionOptions, Span
from headrace.workers.attention.cache_dtype import CacheDtype
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.attention.sdpa import SdpaBackend
from headrace.workers.build import build_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.errors import ModelUnsupported
from headrace.workers.native.program import CompiledProgram
from headrace.workers.process.engine_memory import EngineMemory
from headrace.workers.torch_runner.model_runner import ModelRunner
from tests.workers.driving import request
from tests.workers.driving import run as drive
from tests.workers.native.test_native import (
    SHAPES,
    blocks_of,
    load,
    reference,
    run,
    tokens_of,
)
from tests.workers.processors import needs_kernels, on_each_set
from tests.workers.tiny_models import save_tiny

SOME_SHAPES = ("deep and odd", "many queries to a key", "scores far apart")
LENGTH, CUTS = 301, (0, 3, 223, 299, 300, 301)


class RoundedQueries(SdpaBackend):
    """Rounds queries to 8 bits with a scale for each row and head, as the kernels for int8 do."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        options: AttentionOptions,
    ) -> torch.Tensor:
        scale = query.abs().amax(dim=-1, keepdim=True) / 127
        rounded = torch.where(scale > 0, (query / scale).round() * scale, 0.0)
        return super().attend(layer, rounded, key, value, options)


@torch.inference_mode()
def on_torch(
    model: PreTrainedModel, hook: AttentionHook, tokens: list[int], cache: CacheDtype
) -> torch.Tensor:
    """Logits of torch's operations, with keys and values that are read as the cache holds them."""
    kind = RoundedQueries if cache == "int8" else SdpaBackend
    runner = ModelRunner(
        model,
        hook,
        max_model_len=2048,
        num_blocks=40,
        block_size=16,
        make_backend=partial(kind, cache_dtype=cache),
    )
    batch = AttentionBatch([], [Span(0, len(tokens), 0, blocks_of(len(tokens)))])
    return runner.forward(tokens, range(len(tokens)), range(len(tokens)), batch)


def error_of(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).square().mean().sqrt() / theirs.std())


@on_each_set
@pytest.mark.parametrize("cache", ["int8", "fp8"])
@pytest.mark.parametrize("shape", SOME_SHAPES)
def test_programs_read_what_torch_would_read(
    tmp_path: Path, shape: str, cache: CacheDtype, kernel_set: KernelSet
) -> None:
    """What is left is the rounding of weights, and of fp8's queries on AVX-512, to bfloat16."""
    model, hook = load(tmp_path, SHAPES[shape])
    tokens = tokens_of(LENGTH)
    blocks = blocks_of(LENGTH)
    program = CompiledProgram(model, hook, 2).start(40, 16, cache)
    parts = [run(program, [(tokens, *ends, blocks)]) for ends in itertools.pairwise(CUTS)]
    found, expected = torch.cat(parts), on_torch(model, hook, tokens, cache)
    to_exact = error_of(expected, reference(model, tokens))
    rounds_rows = kernel_set == "avx512" and cache != "int8"
    assert error_of(found, expected) < (0.2 if rounds_rows else 0.1) * to_exact
    assert to_exact < 0.3


@on_each_set
@pytest.mark.parametrize("cache", ["int8", "fp8"])
def test_failed_sequences_leave_nothing_behind(
    tmp_path: Path, cache: CacheDtype, kernel_set: KernelSet
) -> None:
    model, hook = load(tmp_path, {})
    bad = 7
    texts = [[t if t != bad else 8 for t in tokens_of(n, n)] for n in (1, 17, 40)]
    compiled = CompiledProgram(model, hook, 2)
    parts = [(t, 0, len(t), blocks_of(len(t), 8 * n)) for n, t in enumerate(texts)]
    expected = run(compiled.start(40, 16, cache), parts)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    embedding.weight[bad] = float("nan")
    program = CompiledProgram(model, hook, 2).start(40, 16, cache)
    assert run(program, [([bad] * 640, 0, 640, list(range(40)))]).isnan().all()
    assert torch.equal(run(program, parts), expected)


@needs_kernels
@pytest.mark.parametrize("cache", ["int8", "fp8"])
def test_keys_and_values_of_other_sizes_than_each_other(tmp_path: Path, cache: CacheDtype) -> None:
    """As in DeepSeek's latent attention, of which the cache holds what each head reads."""
    save_tiny(tmp_path, "deepseek_v3")
    config = EngineConfig(kv_cache_dtype=cache, kv_cache_bytes=2**21, threads=1, max_num_seqs=4)
    exact = config.model_copy(update={"kv_cache_dtype": "auto"})
    prompts = [(0, request("r", range(3, 60)))]
    found, expected = (
        drive(build_engine(tmp_path, each, 1, print), prompts)["r"] for each in (config, exact)
    )
    assert len(found.tokens) == len(expected.tokens)


@pytest.fixture(scope="module", params=["auto", "torch"])
def kernels(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    path.mkdir()
    save_tiny(path, "llama")
    return path


def engine_of(folder: Path, kernels: str, cache: CacheDtype, **options: Any) -> Engine:
    values: dict[str, Any] = {
        "dtype": "float32", "threads": 1, "max_num_seqs": 4, "kv_cache_bytes": 2**20,
        "kv_cache_dtype": cache, "cpu_kernels": kernels, **options,
    }  # fmt: skip
    return build_engine(folder, EngineConfig.model_validate(values), 1, print)


@pytest.mark.parametrize("cache", ["int8", "fp8"])
def test_cached_prompts_preemption_and_sleep_change_nothing(
    folder: Path, kernels: str, cache: CacheDtype
) -> None:
    prompt = list(range(3, 60))
    memory = EngineMemory(engine_of(folder, kernels, cache), lambda: pytest.fail("reloaded"))
    assert memory.engine.cache_size.dtype == cache

    def tokens(name: str) -> list[int]:
        return drive(memory.engine, [(0, request(name, prompt, max_tokens=20))])[name].tokens

    first = tokens("first")
    assert tokens("with the prompt cached") == first
    memory.sleep(1)
    memory.wake({"weights", "kv_cache"})
    assert tokens("after sleep") == first
    tight = engine_of(folder, kernels, cache, max_num_batched_tokens=16, max_model_len=96)
    others = [(n, request(f"other {n}", range(n, n + 40), max_tokens=20)) for n in range(4, 10)]
    crowd = drive(tight, [(3, request("in a crowd", prompt, max_tokens=20)), *others])
    assert crowd["in a crowd"].tokens == first


def test_twice_as_many_tokens_fit(folder: Path, kernels: str) -> None:
    options = {"kv_cache_bytes": 2**16, "max_num_seqs": 64, "max_model_len": 32}
    whole = engine_of(folder, kernels, "bfloat16", **options)
    half = engine_of(folder, kernels, "int8", **options)
    assert half.cache_size.num_blocks > 1.5 * whole.cache_size.num_blocks  # heads are small here
    for engine in (whole, half):
        size = engine.runner.cache_bytes
        assert size is not None
        assert 0.9 * 2**16 < size <= 2**16


@needs_kernels
def test_a_cached_program_has_the_cache_that_was_asked_for(folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    tokens = []
    for cache in ("int8", "int8", "auto"):
        config = EngineConfig(
            dtype="float32", kv_cache_dtype=cache, kv_cache_bytes=2**20, threads=1
        )
        engine = build_engine(folder, config, 1, lines.append, cache_folder=tmp_path)
        tokens.append(drive(engine, [(0, request("r", range(3, 60)))])["r"].tokens)
        assert engine.cache_size.dtype == ("int8" if cache == "int8" else "float32")
    assert tokens[0] == tokens[1]
    assert sum("program from the cache" in line for line in lines) == 1
    assert sum(line.endswith("tokens in int8") for line in lines) == 2


def test_a_gpu_refuses_the_option(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_runner, "choose_device", lambda configured: torch.device("cuda"))
    with pytest.raises(ModelUnsupported, match="kv_cache_dtype is for CPUs: leave it out"):
        build_engine(folder, EngineConfig(kv_cache_dtype="int8"), 1, print)
