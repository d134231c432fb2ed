"""Configurations with sizes that no model has, or that its weights do not hold."""

from typing import Any

import pytest

from headrace.protocol.common.plausible_sizes import implausible_size

_MIB = 1 << 20
# Real ones, and the bytes of their weights.
PLAUSIBLE: dict[str, tuple[dict[str, Any], int]] = {
    "tiny": ({"num_hidden_layers": 2, "hidden_size": 32, "vocab_size": 200}, 80_000),
    "no numbers": ({"num_hidden_layers": "two", "vocab_size": None, "hidden_size": True}, 0),
    "2 bits": (
        {"vocab_size": 128_256, "hidden_size": 8192, "num_hidden_layers": 80},
        20_000 * _MIB,
    ),
    "a large vocabulary": ({"vocab_size": 262_144, "hidden_size": 640}, 200 * _MIB),
    "no pictures": ({"hidden_size": 8, "vision_config": {"num_hidden_layers": 0}}, _MIB),
    "chunks": ({"mamba_chunk_size": 256, "block_size": 256, "chunk_size": -1}, _MIB),
    "a long context": ({"max_position_embeddings": 10_485_760, "n_layer": 48}, _MIB),
}
IMPLAUSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "layers": ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1e+12"),
    "floats": ({"num_hidden_layers": float("inf")}, "num_hidden_layers is inf"),
    "vocabulary": ({"vocab_size": 2**40, "hidden_size": 32}, "vocab_size is 1.09951e+12"),
    "width": ({"hidden_size": 10**9}, "hidden_size is 1e+09"),
    "inner": ({"text_config": {"n_routed_experts": 10**12}}, "n_routed_experts is 1e+12"),
    "chunks": ({"chunk_size": 30_000}, "chunk_size is 30000"),
    "chunks of Mamba": ({"mamba_chunk_size": 10**7}, "mamba_chunk_size is 1e+07"),
    "blocks": ({"text_config": {"block_size": 10**5}}, "block_size is 100000"),
    "no heads": ({"text_config": {"num_attention_heads": 0}}, "num_attention_heads is 0"),
    "negative": ({"vocab_size": -5}, "vocab_size is -5"),
    "positions": ({"max_position_embeddings": 10**18}, "max_position_embeddings is 1e+18"),
}


@pytest.mark.parametrize("name", PLAUSIBLE)
def test_plausible(name: str) -> None:
    assert implausible_size(*PLAUSIBLE[name]) == ""


@pytest.mark.parametrize("name", IMPLAUSIBLE)
def test_implausible(name: str) -> None:
    config, reason = IMPLAUSIBLE[name]
    assert implausible_size(config, 80_000).startswith(reason)
