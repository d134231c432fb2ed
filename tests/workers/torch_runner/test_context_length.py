"""The frontend's folder, the worker and the fake read the same context length from any model."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from headrace.launcher.models.text_folder import TextOverrides, write_text_folder
from headrace.protocol.common.context_length import context_length, switch_length
from headrace.workers.engine.fake_runner import read_model_size
from headrace.workers.torch_runner.loading import model_length

LONG = {"long_factor": [1.0] * 48, "short_factor": [1.0] * 48}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "qwen2.5 with yarn": (
        {
            "model_type": "qwen2",
            "max_position_embeddings": 32768,
            "rope_scaling": {
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
                "type": "yarn",
            },
        },
        131072,
    ),
    "qwen3 with yarn": (
        {
            "model_type": "qwen3",
            "max_position_embeddings": 40960,
            "rope_scaling": {
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
                "rope_type": "yarn",
            },
        },
        131072,
    ),
    "deepseek v2": (
        {
            "model_type": "deepseek_v2",
            "max_position_embeddings": 163840,
            "rope_scaling": {
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 40,
                "mscale": 0.707,
                "mscale_all_dim": 0.707,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
            },
        },
        163840,
    ),
    "llama 3.1": (
        {
            "model_type": "llama",
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
        },
        131072,
    ),
    "llama 3.2, whose factor gives more than it can": (
        {
            "model_type": "llama",
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
        },
        131072,
    ),
    "llama 2 with linear scaling": (
        {
            "model_type": "llama",
            "max_position_embeddings": 32768,
            "rope_scaling": {"factor": 8.0, "type": "linear"},
        },
        32768,
    ),
    "llama 2 with dynamic scaling": (
        {
            "model_type": "llama",
            "max_position_embeddings": 4096,
            "rope_scaling": {"factor": 4.0, "type": "dynamic"},
        },
        4096,
    ),
    "phi 3 128k": (
        {
            "model_type": "phi3",
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_scaling": {**LONG, "type": "longrope"},
        },
        131072,
    ),
    "gemma 3": (
        {
            "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text",
                "vocab_size": 262208,
                "max_position_embeddings": 131072,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            },
        },
        131072,
    ),
    "gpt 2": ({"model_type": "gpt2", "n_positions": 1024, "n_ctx": 1024}, 1024),
    "opt": ({"model_type": "opt", "max_position_embeddings": 2048}, 2048),
    "kimi": ({"model_type": "kimi_linear", "model_max_length": 4096}, 4096),
    "rwkv": ({"model_type": "rwkv", "context_length": 256}, 256),
    "mamba 2, which has no positions": ({"model_type": "mamba2"}, 32768),
    "mpt": ({"model_type": "mpt", "max_seq_len": 4096}, 4096),
}


@pytest.mark.parametrize("name", CASES)
def test_all_read_the_same(name: str, tmp_path: Path) -> None:
    config, expected = CASES[name]
    text = {"vocab_size": 300, **config}
    (tmp_path / "config.json").write_text(json.dumps(text))
    completed = AutoConfig.from_pretrained(tmp_path)
    facts = {
        "config": json.loads(completed.get_text_config().to_json_string(use_diff=False)),
        "special_tokens": {"bos_token": None, "eos_token": None},
        "model_max_length": 10,
        "tokenizer_class": "X",
        "added_tokens": {},
    }
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    (tmp_path / "tokenizer.json").write_text("{}")
    written = write_text_folder(tmp_path, tmp_path, tmp_path / "text", TextOverrides())
    model: Any = SimpleNamespace(config=completed)
    worker = model_length(model)
    assert [written.max_model_len, worker, read_model_size(tmp_path)[1]] == [expected] * 3


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({}, None),
        ({"max_position_embeddings": None, "seq_length": 16}, 16),
        ({"max_position_embeddings": True}, None),
        ({"max_position_embeddings": 0, "n_ctx": 8}, 8),
        ({"max_position_embeddings": 64, "rope_scaling": "none"}, 64),
        ({"n_ctx": 64, "rope_scaling": {"type": "yarn", "factor": 2}}, 128),
        ({"n_ctx": 64, "rope_scaling": {"type": "yarn", "factor": float("inf")}}, 64),
        ({"n_ctx": 64, "rope_scaling": {"type": "yarn", "factor": "2"}}, 64),
        (
            {
                "n_ctx": 64,
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "default"},
                    "full_attention": {"rope_type": "yarn", "factor": 4.0},
                },
            },
            256,
        ),
        (
            {
                "n_ctx": 64,
                "rope_scaling": {"type": "su", "original_max_position_embeddings": 32},
            },
            64,
        ),
    ],
)
def test_shapes(config: dict[str, Any], length: int | None) -> None:
    assert context_length(config) == length


FACTORS = {"short_factor": [1.0], "long_factor": [2.0]}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"n_ctx": 64, "original_max_position_embeddings": 16, "rope_scaling": {"type": "su"}}, 16),
        ({"n_ctx": 64, "rope_scaling": {"original_max_position_embeddings": 32, "type": "su"}}, 32),
        ({"n_ctx": 32, "rope_scaling": {"original_max_position_embeddings": 32, "type": "su"}}, 0),
        ({"n_ctx": 64, "rope_scaling": {"type": "yarn"}}, 0),
        ({"n_ctx": 64}, 0),
    ],
)
def test_lengths_at_which_frequencies_switch(config: dict[str, Any], length: int) -> None:
    if "rope_scaling" in config:
        config = {**config, "rope_scaling": {**config["rope_scaling"], **FACTORS}}
    assert switch_length(config) == (length or None)
    assert switch_length({"text_config": config}) == (length or None)
    if length:
        same = {**config["rope_scaling"], "long_factor": [1.0]}
        assert switch_length({**config, "rope_scaling": same}) is None
