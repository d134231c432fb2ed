"""Models of sentence-transformers whose files are not where those of other models are."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from headrace.launcher.models.model_folder import ModelError
from headrace.launcher.models.prepare_model import PreparedModel, PrepareOptions, prepare_model
from headrace.protocol.common.pooling.model_setup import read_setup
from tests.launcher.models.test_prepare_model import byte_level_tokenizer

CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "hidden_size": 8,
}


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value))


def save_old(folder: Path, place: str) -> None:
    """Write a model in the form of old versions: pickles, and the model in its own folder."""
    kinds = {place: "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    modules = [{"path": path, "type": f"a.models.{kind}"} for path, kind in kinds.items()]
    write(folder, "modules.json", modules)
    write(folder / place, "config.json", CONFIG)
    write(folder / place, "sentence_bert_config.json", {"max_seq_length": 32})
    byte_level_tokenizer().save(str(folder / place / "tokenizer.json"))
    torch.save({"a": torch.zeros(2)}, folder / place / "pytorch_model.bin")
    write(folder, "1_Pooling/config.json", {"pooling_mode_max_tokens": True})
    write(folder, "2_Dense/config.json", {"in_features": 8, "out_features": 2, "bias": False})
    torch.save({"linear.weight": torch.ones(2, 8)}, folder / "2_Dense" / "pytorch_model.bin")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: the tokenizer, which takes longest, is prepared once."""
    return tmp_path_factory.mktemp("cache")


def prepare(folder: Path, cache: Path, allows_pickles: bool = True) -> PreparedModel:
    options = PrepareOptions(
        folder.parent / "text", cache_dir=cache, allow_pickle_weights=allows_pickles
    )
    return prepare_model(str(folder), options, lambda line: None)


@pytest.mark.parametrize("place", ["0_Transformer", "0_BERT", ""])
def test_files_are_brought_to_where_they_belong(tmp_path: Path, cache: Path, place: str) -> None:
    save_old(tmp_path / "model", place)
    prepared = prepare(tmp_path / "model", cache)
    folder = prepared.model_path
    assert prepared.served_name == "model"
    assert "a" in load_file(folder / "model.safetensors")
    assert load_file(folder / "2_Dense" / "model.safetensors")["linear.weight"].sum() == 16
    setup = read_setup(folder, prepared.convert, CONFIG)
    assert (setup.modules.modes, setup.own_length, setup.size) == (("max",), 32, 2)
    assert prepare(tmp_path / "model", cache).model_path == folder  # it is made once


def test_pickles_of_modules_are_refused_unless_allowed(tmp_path: Path, cache: Path) -> None:
    save_old(tmp_path / "model", "0_BERT")
    with pytest.raises(ModelError, match=r"2_Dense: has only pickled weights \(pytorch_model.bin"):
        prepare(tmp_path / "model", cache, allows_pickles=False)


def test_an_old_router_keeps_its_lists(tmp_path: Path, cache: Path) -> None:
    save_old(tmp_path / "model", "0_BERT")
    routes = {"query": ["0_BERT", "1_Pooling", "2_Dense"], "document": ["0_BERT", "1_Pooling"]}
    types = {"0_BERT": "a.Transformer", "1_Pooling": "a.Pooling", "2_Dense": "a.Dense"}
    routes["document"].append("2_Dense")
    write(tmp_path / "model", "modules.json", [{"path": "", "type": "a.models.Asym"}])
    asym = {"types": types, "structure": routes, "parameters": {"allow_empty_key": True}}
    write(tmp_path / "model", "config.json", asym)
    prepared = prepare(tmp_path / "model", cache)
    pooling = prepared.info.pooling
    assert pooling is not None
    assert (pooling.routes, pooling.size) == (("query", "document"), 2)
