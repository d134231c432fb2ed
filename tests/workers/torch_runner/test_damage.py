"""Checkpoints with damage that neither names, shapes nor the self-check tell."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.workers.errors import ModelUnsupported
from headrace.workers.torch_runner import damage
from headrace.workers.torch_runner.loading import load_model
from tests.workers.tiny_models import save_tiny


def refusal(folder: Path) -> str:
    with pytest.raises(ModelUnsupported) as caught:
        load_model(folder, "float32", torch.device("cpu"))
    return caught.value.reason


@pytest.mark.parametrize("part", ["embed_tokens", "experts.3.down_proj"])
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_numbers_that_few_texts_need(tmp_path: Path, part: str, number: float) -> None:
    save_tiny(tmp_path, "qwen3_moe")
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if part in name)
    weights[name].view(-1)[-1] = number
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    reason = refusal(tmp_path)
    assert part.partition(".")[0] in reason
    assert "NaN or infinite" in reason


def test_sizes_that_only_all_weights_together_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path, "llama")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "head_dim": 1 << 17}))
    monkeypatch.setattr(damage, "SLACK_NUMBERS", 1 << 20)  # far less than the memory of the test
    assert "a model of these sizes has" in refusal(tmp_path)
