"""Rotary embeddings that are found in transformers' modules, and those that are not plain."""

from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from headrace.workers.native.graph import TableCall
from headrace.workers.native.position_tables import RotaryTables, compute_tables, find_rotary

LENGTH = 5000
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1250}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 16,
    "long_factor": [2.0] * 16,
    "original_max_position_embeddings": 100,
}


def call(module: torch.nn.Module, dtype: torch.dtype, **options: Any) -> TableCall:
    positions = torch.arange(3).unsqueeze(0)
    return TableCall(module, (torch.zeros((1, 3, 8), dtype=dtype), positions), options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "rope", [PLAIN, {**PLAIN, **YARN}, {**PLAIN, "rope_type": "linear", "factor": 2.0}]
)
def test_plain_embeddings_are_the_same_to_the_last_bit(
    rope: dict[str, Any], dtype: torch.dtype
) -> None:
    config = LlamaConfig(head_dim=32, max_position_embeddings=LENGTH, rope_parameters=rope)
    module = call(LlamaRotaryEmbedding(config), dtype)
    found = find_rotary(module, LENGTH)
    assert isinstance(found, RotaryTables)
    assert found.factor == (1.0 if rope["rope_type"] != "yarn" else pytest.approx(1.1386, abs=1e-4))
    for positions in (torch.tensor([[4999, 3, 17]]), torch.tensor([[1234]])):
        theirs = compute_tables(module, positions)
        assert all(map(torch.equal, found.compute(positions), theirs))
        assert theirs[0].dtype == found.compute(positions)[0].dtype == dtype


def test_the_frequencies_of_a_kind_of_layer_are_found() -> None:
    config = Gemma3TextConfig(head_dim=32, max_position_embeddings=LENGTH)
    module = Gemma3RotaryEmbedding(config)
    kinds = ("full_attention", "sliding_attention")
    calls = [call(module, torch.float32, layer_type=kind) for kind in kinds]
    full, sliding = (find_rotary(each, LENGTH) for each in calls)
    assert full is not None
    assert sliding is not None
    assert not torch.equal(full.frequencies, sliding.frequencies)


def test_frequencies_that_switch_with_a_sequences_length_are_found() -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_attention_heads": 2,
        "max_position_embeddings": LENGTH,
    }
    sizes["original_max_position_embeddings"] = 100
    config = Phi3Config(**sizes, pad_token_id=None, rope_parameters={**PLAIN, **LONG})
    module = call(Phi3RotaryEmbedding(config), torch.float32)
    found = find_rotary(module, LENGTH)
    assert isinstance(found, RotaryTables)
    assert found.switch_length == 100
    # Each row has the frequencies that its own sequence would have alone.
    tables = found.compute(torch.tensor([[7, 7, 4000]]), torch.tensor([False, True, True]))
    short = compute_tables(module, torch.tensor([[7]]))
    long = compute_tables(module, torch.tensor([[7, 4000]]))
    for ours, own, others in zip(tables, short, long, strict=True):
        assert torch.equal(ours[0, 0], own[0, 0])
        assert torch.equal(ours[0, 1:], others[0])
        assert not torch.equal(ours[0, 0], ours[0, 1])
    plain = find_rotary(module, 100)  # all of them short
    assert plain is not None
    assert plain.long_frequencies is None


def test_frequencies_that_follow_the_longest_sequence_are_not_plain() -> None:
    rope = {**PLAIN, "rope_type": "dynamic", "factor": 2.0}
    config = LlamaConfig(head_dim=32, max_position_embeddings=100, rope_parameters=rope)
    assert find_rotary(call(LlamaRotaryEmbedding(config), torch.float32), LENGTH) is None
