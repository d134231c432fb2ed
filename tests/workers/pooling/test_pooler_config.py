"""What operators say about pooling: texts in pieces, other ways to pool, calibrated scores."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from headrace.protocol.common.pooling.pooler_config import PoolerConfig
from headrace.protocol.to_worker import Encode
from headrace.workers.errors import ModelUnsupported, RejectedByEngine
from headrace.workers.pooling.engine import PoolingEngine
from headrace.workers.pooling.fake_runner import FakePoolingRunner
from headrace.workers.pooling.runner import TextLimits
from tests.workers.pooling.driving import encode, numbers, run
from tests.workers.pooling.test_encoders import SHAPES, engine_of, save, write_modules
from tests.workers.pooling.test_pooling_engine import Recorder

LIMITS = TextLimits(("embed", "token_embed"), 100, 16, 8, (), max_embed_len=100)
IDS = [5 + number * 7 % 90 for number in range(75)]
Vector = npt.NDArray[np.float64]


def pieces_of(runner: FakePoolingRunner) -> PoolingEngine:
    return PoolingEngine(runner, max_num_seqs=8, max_num_batched_tokens=256)


def mean_by_hand(vectors: list[Vector], weights: list[int]) -> Vector:
    mean = sum(vector * weight for vector, weight in zip(vectors, weights, strict=True))
    return np.asarray(mean / sum(weights), dtype=np.float64)


@pytest.mark.parametrize("activates", [None, False])
def test_a_long_text_is_the_mean_of_its_pieces(activates: bool | None) -> None:
    parts = [IDS[start : start + 16] for start in range(0, 75, 16)]
    fields: dict[str, Any] = {"activates": activates, "dimensions": 5}
    found = run(
        pieces_of(Recorder(LIMITS)),
        [encode("long", IDS, **fields)]
        + [encode(str(n), part, **fields) for n, part in enumerate(parts)],
    )
    vectors = [numbers(found[str(n)].pooled) for n in range(len(parts))]
    wanted = mean_by_hand(vectors, [16, 16, 16, 16, 11])
    if activates is None:
        wanted /= np.linalg.norm(wanted)
    assert np.abs(numbers(found["long"].pooled) - wanted).max() < 1e-6


def test_pieces_run_in_steps_and_others_between_them() -> None:
    runner = Recorder(LIMITS)
    engine = PoolingEngine(runner, max_num_seqs=2, max_num_batched_tokens=256)
    found = run(
        engine,
        [encode("long", IDS, tenant="a"), *(encode(n, [1, 2], tenant=n) for n in ("b", "c"))],
    )
    assert sorted(found) == ["b", "c", "long"]
    steps = runner.steps
    assert sum(step.count("long") for step in steps) == 5
    assert [name for step in steps for name in step].index("c") < 4  # before all pieces
    assert engine.stats().prompt_tokens == 75 + 4
    assert not engine.has_work


def test_a_long_text_that_is_dropped_or_fails() -> None:
    engine = PoolingEngine(Recorder(LIMITS), max_num_seqs=2, max_num_batched_tokens=256)
    engine.add(encode("long", IDS))
    engine.step()
    engine.abort("long")
    assert not engine.has_work
    assert engine.load().waiting == 0
    failing = Recorder(LIMITS, fails=["long"])
    found = run(
        PoolingEngine(failing, max_num_seqs=2, max_num_batched_tokens=256),
        [encode("long", IDS), encode("short", [1])],
    )
    assert (found["long"].finish_reason, found["short"].finish_reason) == ("rejected", "stop")


def test_lengths_by_task() -> None:
    engine = pieces_of(Recorder(LIMITS))
    with pytest.raises(RejectedByEngine, match="101 tokens are more than the 100"):
        engine.add(encode("a", [1] * 101))
    with pytest.raises(RejectedByEngine, match="17 tokens are more than the 16"):
        engine.add(encode("a", [1] * 17, "token_embed"))


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_pieces_of_a_model(kernels: str, tmp_path: Path) -> None:
    save(tmp_path, "bert")
    write_modules(tmp_path, ["Transformer", "Pooling", "Normalize"], {"pooling_mode": "mean"})
    config = PoolerConfig(enable_chunked_processing=True)
    engine = engine_of(tmp_path, cpu_kernels=kernels, max_model_len=32, pooler_config=config)
    found = run(engine, [encode("all", IDS), encode("half", IDS, number_format="float16")])
    model = AutoModel.from_pretrained(tmp_path).eval()
    vectors = []
    for start in (0, 32, 64):
        with torch.inference_mode():
            ids = torch.tensor([IDS[start : start + 32]])
            vector = model(ids).last_hidden_state[0].mean(0).double().numpy()
        vectors.append(vector / np.linalg.norm(vector))
    wanted = mean_by_hand(vectors, [32, 32, 11])
    wanted /= np.linalg.norm(wanted)
    exact = numbers(found["all"].pooled)
    assert np.abs(exact - wanted).max() < 1e-5
    half = found["half"].pooled
    assert half is not None
    assert np.frombuffer(half.data, dtype=np.float16).tolist() == exact.astype(np.float16).tolist()


def test_pooling_of_the_operators_choice(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    write_modules(tmp_path, ["Transformer", "Pooling"], {"pooling_mode": "max"})
    model = AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        rows = model(torch.tensor([IDS[:9]])).last_hidden_state[0].double().numpy()
    for kind, wanted in (("LAST", rows[-1]), ("CLS", rows[0]), ("MEAN", rows.mean(0))):
        config = PoolerConfig.model_validate({"pooling_type": kind})
        found = run(engine_of(tmp_path, pooler_config=config), [encode("a", IDS[:9])])["a"]
        assert np.abs(numbers(found.pooled) - wanted).max() < 1e-4


def test_calibrated_scores_and_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _, options, varlen = SHAPES["bert"]
    options = {**options, "num_labels": 2}
    steps = {"tok_pooling_type": "STEP", "step_tag_id": IDS[2]}
    for head, task, reference, more in (
        ("BertForSequenceClassification", "classify", AutoModelForSequenceClassification, {}),
        ("BertForTokenClassification", "token_classify", AutoModelForTokenClassification, steps),
    ):
        monkeypatch.setitem(SHAPES, "bert", (config, head, options, varlen))
        folder = tmp_path / task
        save(folder, "bert")
        pooler = PoolerConfig.model_validate({"logit_mean": 0.5, "logit_sigma": 2, **more})
        request = Encode("a", tuple(IDS[:9]), task)  # type: ignore[arg-type]
        found = run(engine_of(folder, pooler_config=pooler), [request])["a"].pooled
        with torch.inference_mode():
            logits = reference.from_pretrained(folder).eval()(torch.tensor([IDS[:9]])).logits[0]
        wanted = ((logits.double() - 0.5) / 2).softmax(-1).numpy()
        wanted = wanted[2:3] if more else wanted
        assert numbers(found).shape == wanted.shape
        assert np.abs(numbers(found) - wanted).max() < 1e-5


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"task": "classify"}, "task: what the model does is embed, token_embed"),
        ({"logit_mean": 1.0}, "logit_mean: the model does embed"),
        ({"dimensions": 5}, "dimensions: this model's embeddings cannot be cut"),
        ({"max_embed_len": 200}, "max_embed_len 200 .* set enable_chunked_processing"),
    ],
)
def test_what_does_not_fit_the_model(values: dict[str, object], named: str, tmp_path: Path) -> None:
    save(tmp_path, "bert")
    with pytest.raises(ModelUnsupported, match=named):
        engine_of(tmp_path, pooler_config=PoolerConfig.model_validate(values))


def test_limits_say_how_long_a_text_may_be(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    shorter = engine_of(tmp_path, engine="fake", pooler_config=PoolerConfig(max_embed_len=20))
    with pytest.raises(RejectedByEngine, match="more than the 20"):
        shorter.add(encode("a", [1] * 21))
