"""Random models that score pairs: their numbers are those of transformers' own forward pass."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from headrace.workers.errors import ModelUnsupported
from tests.workers.pooling.driving import encode, numbers, run
from tests.workers.pooling.test_encoders import SHAPES, engine_of, linked, save, texts

HEADS = {
    "bert": "BertForSequenceClassification",
    "xlm-roberta": "XLMRobertaForSequenceClassification",
    "albert": "AlbertForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification",
}
SIGMOID = "torch.nn.modules.activation.Sigmoid"
IDENTITY = "torch.nn.modules.linear.Identity"


def save_scorer(folder: Path, name: str) -> None:
    """Write a model with one label, of whose scores some are large."""
    before = SHAPES.get(name)
    config, _, options, is_varlen = before or ("AlbertConfig", "", {"embedding_size": 16}, True)
    SHAPES[name] = (config, HEADS[name], {**options, "num_labels": 1}, is_varlen)
    try:
        save(folder, name)
    finally:
        if before is None:
            del SHAPES[name]
        else:
            SHAPES[name] = before


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorer")
    save_scorer(folder, "bert")
    return folder


@pytest.mark.parametrize("name", HEADS)
def test_scores_of_pairs(name: str, tmp_path: Path) -> None:
    save_scorer(tmp_path, name)
    engine = engine_of(tmp_path)
    assert engine.tasks == ("classify", "score")
    reference = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    has_types = getattr(reference.config, "type_vocab_size", 1) > 1
    for n, ids in enumerate(texts(2)):
        types = [0 if place < len(ids) // 2 else 1 for place in range(len(ids))]
        fields: dict[str, Any] = {"token_type_ids": tuple(types)} if has_types else {}
        inputs = {"token_type_ids": torch.tensor([types])} if has_types else {}
        with torch.inference_mode():
            wanted = float(reference(torch.tensor([ids]), **inputs).logits[0, 0])
        found = run(engine, [encode(str(n), ids, "score", **fields)])[str(n)].pooled
        assert float(numbers(found)[0]) == pytest.approx(1 / (1 + np.exp(-wanted)), abs=1e-4)
        found = run(engine, [encode("raw", ids, "score", activates=False, **fields)])["raw"].pooled
        assert float(numbers(found)[0]) == pytest.approx(wanted, abs=1e-4 * max(1, abs(wanted)))


def in_settings(folder: Path, name: str) -> None:
    settings = {"model_type": "CrossEncoder", "activation_fn": name}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    modules = [{"idx": 0, "path": "", "type": "sentence_transformers.base.modules.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(modules))


def nested(folder: Path, name: str) -> None:
    _change(folder, sentence_transformers={"activation_fn": name})


def oldest(folder: Path, name: str) -> None:
    _change(folder, sbert_ce_default_activation_function=name)


def _change(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("place", [in_settings, nested, oldest])
def test_places_of_the_activation(
    place: Callable[[Path, str], None], scorer: Path, tmp_path: Path
) -> None:
    ids, found = texts()[2], {}
    for name in (SIGMOID, IDENTITY):
        folder = tmp_path / name
        folder.mkdir()
        place(linked(scorer, folder, copies=("config.json",)), name)
        found[name] = numbers(run(engine_of(folder), [encode("a", ids, "score")])["a"].pooled)[0]
    assert found[SIGMOID] == pytest.approx(1 / (1 + np.exp(-found[IDENTITY])), abs=1e-6)
    assert found[SIGMOID] != pytest.approx(found[IDENTITY], abs=1e-3)


def test_an_unknown_activation_is_an_error(scorer: Path, tmp_path: Path) -> None:
    folder = linked(scorer, tmp_path, copies=("config.json",))
    nested(folder, "my.code.Activation")
    with pytest.raises(ModelUnsupported, match="Activation"):
        engine_of(folder)


def test_the_length_of_pairs_is_the_authors(scorer: Path, tmp_path: Path) -> None:
    folder = linked(scorer, tmp_path)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40}))
    found = run(engine_of(folder), [encode("a", [7] * 40, "score")])["a"]
    assert found.finish_reason == "stop"
    with pytest.raises(Exception, match="41 tokens are more than the 40"):
        run(engine_of(folder), [encode("a", [7] * 41, "score")])
