"""How large the cache becomes on a GPU. torch's counts of the card's memory are made up here."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from headrace.protocol.common.host.limits import Limit
from headrace.protocol.config import EngineConfig
from headrace.workers.attention.backend import KVLayerShape
from headrace.workers.attention.cache_dtype import CacheDtype
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.errors import ModelUnsupported
from headrace.workers.sequence.sequence import Chunk, ChunkResult
from headrace.workers.torch_runner import cache_size
from headrace.workers.torch_runner.cache_size import (
    CacheSizes,
    choose_cache_sizes,
    choose_num_blocks,
)
from headrace.workers.torch_runner.loading import load_model
from headrace.workers.torch_runner.model_runner import ModelRunner
from headrace.workers.torch_runner.step_memory import (
    largest_prefill,
    largest_sampling,
    measure_step_bytes,
)
from tests.workers.tiny_models import save_tiny

LAYERS = [KVLayerShape(kv_heads=1, key_dim=8, value_dim=8)] * 2
BLOCK_BYTES = 2 * 16 * 4 * 16  # layers, elements, float32, tokens
CUDA = torch.device("cuda")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A card of 1,000 blocks' bytes; the test sets what is free and what the worker holds."""
    card = SimpleNamespace(total=1000 * BLOCK_BYTES, free=900 * BLOCK_BYTES, own=100 * BLOCK_BYTES)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (card.free, card.total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: card.own)
    return card


def blocks(utilization: float, activation_blocks: int = 0, **options: Any) -> int:
    config = EngineConfig(memory_utilization=utilization, max_num_seqs=10_000, **options)
    activation_bytes = activation_blocks * BLOCK_BYTES
    return choose_num_blocks(config, LAYERS, "float32", CUDA, 16, 1, activation_bytes)


def test_half_of_a_card_is_the_same_beside_another_worker(card: SimpleNamespace) -> None:
    alone = blocks(0.5)
    assert alone == 400 // 2  # two of the two layers may be gathered in addition to the cache
    card.free = 410 * BLOCK_BYTES
    assert blocks(0.5) == alone


def test_no_more_than_is_free(card: SimpleNamespace) -> None:
    card.free = 40 * BLOCK_BYTES
    assert blocks(0.9) == 40 // 2


def test_a_step_keeps_its_room(card: SimpleNamespace) -> None:
    assert blocks(0.5, 100) == 300 // 2
    with pytest.raises(ModelUnsupported, match="fewer than one request"):
        blocks(0.5, 400)
    assert blocks(0.5, 400, kv_cache_bytes=7 * BLOCK_BYTES) == 7


@pytest.mark.parametrize("step_tokens", [1, 20, 128, 300])
def test_the_largest_prefill_fills_the_step_and_can_be_run(
    tmp_path: Path, step_tokens: int
) -> None:
    save_tiny(tmp_path, "llama")
    runner = small_runner(tmp_path)
    chunks = largest_prefill(step_tokens, 128, 16)
    assert sum(chunk.count for chunk in chunks) == step_tokens
    assert {chunk.end for chunk in chunks} == {128}
    results = runner.run(chunks)
    assert len(results[0].prompt_logprobs) == min(step_tokens, 128) - 1
    assert len(runner.run(largest_sampling(7))) == 7


def test_the_peak_is_that_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path, "llama")
    model, hook = probed(tmp_path)
    rows: list[int] = []
    run = ModelRunner.run

    def counted(self: ModelRunner, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        rows.append(len(chunks))
        return run(self, chunks)

    monkeypatch.setattr(ModelRunner, "run", counted)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1000 + sum(rows))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: rows.clear())
    config = EngineConfig(max_num_batched_tokens=200, max_num_seqs=5)
    assert measure_step_bytes(model, hook, config, 128) == 2 + 5


def probed(folder: Path) -> tuple[PreTrainedModel, AttentionHook]:
    model = load_model(folder, "float32", torch.device("cpu"))
    hook = AttentionHook()
    with torch.inference_mode():
        hook.probe(model)
    return model, hook


def small_runner(folder: Path) -> ModelRunner:
    model, hook = probed(folder)
    return ModelRunner(model, hook, max_model_len=128, num_blocks=1, block_size=16)


def test_what_a_predecessor_gives_back_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = Limit(1000 * BLOCK_BYTES, "a test")
    monkeypatch.setattr(cache_size, "available_memory", lambda: free)
    dtype: CacheDtype = "float32"
    sizes = LAYERS, dtype, torch.device("cpu"), 16, 2
    config = EngineConfig(max_num_seqs=10_000)
    assert choose_num_blocks(config, *sizes) == 200
    assert choose_num_blocks(config, *sizes, freed_bytes=500 * BLOCK_BYTES) == 300


def sizes(num_bytes: int, state: int, layers: Sequence[KVLayerShape] = LAYERS) -> CacheSizes:
    config = EngineConfig(kv_cache_bytes=num_bytes, max_num_seqs=50)
    cpu = torch.device("cpu")
    return choose_cache_sizes(config, layers, "float32", cpu, 32, 1, state_bytes=state)


def test_states_share_the_memory_with_keys_and_values() -> None:
    state = 3 * BLOCK_BYTES
    # Beside the two blocks of one request, half is for states.
    assert sizes(62 * BLOCK_BYTES, state) == CacheSizes(62 - 30, 10)
    assert sizes(10_000 * BLOCK_BYTES, state) == CacheSizes(100, 200)
    # If little is there, states get what they cannot do without.
    assert sizes(9 * BLOCK_BYTES, state) == CacheSizes(3, 2)
    with pytest.raises(ModelUnsupported, match="1 states of recurrent layers"):
        sizes(7 * BLOCK_BYTES, state)


def test_blocks_of_a_model_without_attention_cost_nothing() -> None:
    assert sizes(1000, 10, []) == CacheSizes(100, 100)
