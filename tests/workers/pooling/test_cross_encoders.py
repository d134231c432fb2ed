"""Random models that score pairs: their numbers are those of transformers' own forward pass."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from headrace.protocol.common.pooling.model_setup import choose_runner
from headrace.protocol.config import EngineConfig
from headrace.workers.errors import ModelUnsupported
from headrace.workers.pooling.build import build_pooling_engine
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


def save_answerer(folder: Path) -> None:
    """Write a generator whose tokenizer knows the answers."""
    save(folder, "qwen3")
    words = {word: number for number, word in enumerate(["<unk>", "no", "yes", "a", "b"])}
    Tokenizer(models.WordLevel(words, unk_token="<unk>")).save(str(folder / "tokenizer.json"))


def by_names(folder: Path) -> None:
    _change(
        folder,
        architectures=["Qwen3ForSequenceClassification"],
        classifier_from_token=["no", "yes"],
        is_original_qwen3_reranker=True,
    )


def by_module(folder: Path) -> None:
    in_settings(folder, SIGMOID)
    kinds = ["base.modules.Transformer", "cross_encoder.modules.LogitScore"]
    places = ["", "1_LogitScore"]
    modules = [
        {"idx": number, "path": place, "type": f"sentence_transformers.{kind}"}
        for number, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_LogitScore").mkdir()
    ids = {"true_token_id": 2, "false_token_id": 1}
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps(ids))


@pytest.mark.parametrize("change", [by_names, by_module])
def test_generators_score_by_two_tokens(change: Callable[[Path], None], tmp_path: Path) -> None:
    save_answerer(tmp_path)
    reference: torch.nn.Module = AutoModelForCausalLM.from_pretrained(tmp_path)
    reference.eval()
    change(tmp_path)
    assert choose_runner(tmp_path, "auto", "auto") == ("pooling", "classify")
    engine = engine_of(tmp_path)
    assert engine.tasks == ("classify", "score")
    for ids in texts(2):
        with torch.inference_mode():
            logits = reference(torch.tensor([ids])).logits[0, -1].double()
        wanted = float(logits[[1, 2]].softmax(-1)[1])
        found = run(engine, [encode("a", ids, "score")])["a"].pooled
        assert float(numbers(found)[0]) == pytest.approx(wanted, abs=1e-4)


def test_tokens_that_are_labels(tmp_path: Path) -> None:
    save_answerer(tmp_path)
    reference: torch.nn.Module = AutoModelForCausalLM.from_pretrained(tmp_path)
    reference.eval()
    _change(tmp_path, classifier_from_token=["a", "b", "yes"])
    config = EngineConfig(runner="pooling", convert="classify", dtype="float32", threads=1)
    engine = build_pooling_engine(tmp_path, config, 1, print)
    assert engine.tasks == ("classify",)
    ids = texts()[2]
    with torch.inference_mode():
        logits = reference(torch.tensor([ids])).logits[0, -1].double()
    found = run(engine, [encode("a", ids, "classify")])["a"].pooled
    assert np.abs(numbers(found) - logits[[3, 4, 2]].softmax(-1).numpy()).max() < 1e-4


def test_tokens_that_are_unknown(tmp_path: Path) -> None:
    save_answerer(tmp_path)
    by_names(tmp_path)
    for names, reason in ((["no", "perhaps"], "perhaps"), (["no"], "classifier_from_token")):
        _change(tmp_path, classifier_from_token=names)
        with pytest.raises(ModelUnsupported, match=reason):
            engine_of(tmp_path)
