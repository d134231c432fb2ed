"""Random models with heads: the numbers of labels are those of transformers' own forward pass."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from headrace.protocol.pooling import PoolingTask
from headrace.workers.pooling.engine import PoolingEngine
from tests.workers.pooling.driving import encode, numbers, run
from tests.workers.pooling.test_encoders import SHAPES, engine_of, save, texts

HEADS = {
    "bert": "BertForSequenceClassification",
    "roberta": "RobertaForSequenceClassification",
    "distilbert": "DistilBertForSequenceClassification",
    "modernbert": "ModernBertForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification",
    "deberta-v2": "DebertaV2ForSequenceClassification",
}


@pytest.mark.parametrize("name", HEADS)
def test_labels_of_texts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _, options, is_varlen = SHAPES[name]
    monkeypatch.setitem(
        SHAPES, name, (config, HEADS[name], {**options, "num_labels": 3}, is_varlen)
    )
    save(tmp_path, name)
    engine = engine_of(tmp_path)
    assert engine.tasks == ("classify",)
    reference = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    _check(engine, reference, "classify")


def test_labels_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = ("BertConfig", "BertForTokenClassification", {"num_labels": 4}, True)
    monkeypatch.setitem(SHAPES, "bert", changed)
    save(tmp_path, "bert")
    engine = engine_of(tmp_path)
    assert engine.tasks == ("token_classify",)
    reference = AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    _check(engine, reference, "token_classify")


def _check(engine: PoolingEngine, reference: torch.nn.Module, task: PoolingTask) -> None:
    inputs = texts(2)
    together = run(engine, [encode(str(n), ids, task) for n, ids in enumerate(inputs)])
    for n, ids in enumerate(inputs):
        found = together[str(n)].pooled
        assert found == run(engine, [encode("alone", ids, task)])["alone"].pooled
        with torch.inference_mode():
            logits = reference(torch.tensor([ids])).logits[0].double()
        wanted = logits.softmax(-1).numpy()
        assert np.abs(numbers(found) - wanted).max() < 1e-4
    raw = run(engine, [encode("raw", inputs[-1], task, activates=False)])["raw"].pooled
    assert np.abs(numbers(raw) - logits.numpy()).max() < 1e-3
