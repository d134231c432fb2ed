"""A tiny model that transcribes, with random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

POSITIONS, MELS, VOCABULARY, LONGEST = 40, 80, 300, 64


def save_whisper(folder: Path, **changes: Any) -> Path:
    """Save a random model in Hugging Face layout."""
    torch.manual_seed(3)
    sizes = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2}
    sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes |= {"encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "num_mel_bins": MELS}
    sizes |= {"vocab_size": VOCABULARY, "max_source_positions": POSITIONS}
    sizes |= {"max_target_positions": LONGEST}
    config = WhisperConfig(
        **(sizes | changes), pad_token_id=0, bos_token_id=1, eos_token_id=1,
        decoder_start_token_id=2, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    for name, parameter in model.named_parameters():  # spread so that words differ by window
        if "conv" in name and parameter.ndim == 3:
            parameter.data.mul_(20.0)
        elif parameter.ndim == 2 and "embed" not in name:
            parameter.data.mul_(8.0)
    model.save_pretrained(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"alignment_heads": [[1, 0], [0, 2]]}))
    return folder


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "tiny")
