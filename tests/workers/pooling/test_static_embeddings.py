"""Models without layers, in the forms of sentence-transformers and of model2vec."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from headrace.launcher.models.model_folder import ModelError
from headrace.launcher.models.prepare_model import PreparedModel, PrepareOptions, prepare_model
from headrace.workers.errors import ModelUnsupported
from tests.workers.pooling.driving import encode, numbers, run
from tests.workers.pooling.test_encoders import engine_of

WORDS = ["[UNK]", "[CLS]", "cats", "are", "small", "."]
SIZE = 8


def tokenizer() -> Tokenizer:
    """One that would add a special token, cut and pad."""
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 1)]
    )
    made.enable_truncation(5)
    made.enable_padding(length=4)
    return made


def table() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(len(WORDS), SIZE)


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value))


def save_module(folder: Path, place: str = "") -> None:
    """Write what sentence-transformers writes, the model in a folder of its own or not."""
    (folder / place).mkdir(parents=True, exist_ok=True)
    save_file({"embedding.weight": table()}, folder / place / "model.safetensors")
    tokenizer().save(str(folder / place / "tokenizer.json"))
    write(folder, "modules.json", [{"path": place, "type": "a.StaticEmbedding"}])


def save_model2vec(folder: Path, **config: Any) -> None:
    """Write what model2vec writes: tokens that share rows of integers, and weights of tokens."""
    folder.mkdir(exist_ok=True)
    rows = {"embeddings": torch.arange(-12, 12).view(3, SIZE).to(torch.int8)}
    tokens = {"mapping": torch.tensor([0, 0, 1, 2, 2, 1]), "weights": torch.rand(len(WORDS))}
    save_file({**rows, **tokens}, folder / "model.safetensors")
    tokenizer().save(str(folder / "tokenizer.json"))
    write(folder, "config.json", config)


def prepare(folder: Path, tmp_path: Path) -> PreparedModel:
    options = PrepareOptions(tmp_path / "text", cache_dir=tmp_path / "cache")
    return prepare_model(str(folder), options, lambda line: None)


def embedding(model: Path, text: str, text_path: Path) -> tuple[np.ndarray, list[int]]:
    ids = Tokenizer.from_file(str(text_path / "tokenizer.json")).encode(text).ids
    return numbers(run(engine_of(model), [encode("a", ids)])["a"].pooled), ids


@pytest.mark.parametrize("place", ["", "0_StaticEmbedding"])
def test_a_text_is_the_mean_of_its_tokens_rows(tmp_path: Path, place: str) -> None:
    save_module(tmp_path / "model", place)
    prepared = prepare(tmp_path / "model", tmp_path)
    assert (prepared.runner, prepared.convert) == ("pooling", "embed")
    found, ids = embedding(prepared.model_path, "cats are small .", prepared.text_path)
    assert ids == [2, 3, 4, 5]  # no special tokens, nothing filled
    assert engine_of(prepared.model_path).runner.limits.max_model_len == 5  # the tokenizer's
    np.testing.assert_allclose(found, table()[2:].mean(dim=0).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "config", [{"model_type": "model2vec", "architectures": ["StaticModel"]}, {}]
)
@pytest.mark.parametrize("normalizes", [True, False])
def test_tokens_of_model2vec_share_rows_and_have_weights(
    tmp_path: Path, config: dict[str, Any], normalizes: bool
) -> None:
    save_model2vec(tmp_path / "model", normalize=normalizes, **config)
    prepared = prepare(tmp_path / "model", tmp_path)
    found, _ = embedding(prepared.model_path, "cats small", prepared.text_path)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    rows = tensors["embeddings"][[1, 2]].float() * tensors["weights"][[2, 4]].unsqueeze(1)
    wanted = rows.mean(dim=0)
    if normalizes:
        wanted = wanted / wanted.norm()
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    save_module(tmp_path / "model")
    save_file({"other": table()}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ModelError, match="no table of embeddings"):
        prepare(tmp_path / "model", tmp_path)
    save_model2vec(tmp_path / "model2vec")
    prepared = prepare(tmp_path / "model2vec", tmp_path)
    with pytest.raises(ModelUnsupported, match="quantization"):
        engine_of(prepared.model_path, quantization="int8")
    rows = {"embeddings": torch.zeros(3, SIZE), "mapping": torch.tensor([0, 1, 2, 3, 0, 0])}
    save_file(rows, tmp_path / "model2vec" / "model.safetensors")
    with pytest.raises(ModelUnsupported, match="mapping does not name rows"):
        engine_of(prepared.model_path)
