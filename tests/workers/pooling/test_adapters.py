"""LoRA adapters of models that pool: the numbers are PEFT's, beside any others."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from headrace.protocol.config import CpuKernels
from headrace.protocol.pooling import PoolingTask
from headrace.workers.errors import AdapterError, RejectedByEngine
from headrace.workers.native.library import usable_kernels
from headrace.workers.pooling.engine import PoolingEngine
from tests.workers.pooling.driving import encode, numbers, run
from tests.workers.pooling.test_encoders import SHAPES, engine_of, save, texts, write_modules

ATTENTION = ["query", "value"]
# A model: its shape, class and task; the class that its adapters are trained on, and their layers.
Case = tuple[str, str, PoolingTask, str, Any, dict[str, Any]]
CASES: dict[str, Case] = {
    "bert": ("bert", "BertModel", "embed", "BertModel", ATTENTION, {}),
    "bert, all layers": ("bert", "BertModel", "embed", "BertModel", "all-linear", {}),
    "modernbert": ("modernbert", "ModernBertModel", "embed", "ModernBertModel", ["Wqkv", "Wo"], {}),
    "mpnet": ("mpnet", "MPNetModel", "embed", "MPNetModel", ["q", "v", "dense"], {}),
    "qwen3, trained to generate": (
        "qwen3", "Qwen3ForCausalLM", "embed", "Qwen3ForCausalLM", ["q_proj", "down_proj"], {},
    ),
    "labels": (
        "bert", "BertForSequenceClassification", "classify", "BertForSequenceClassification",
        ATTENTION, {"task_type": "SEQ_CLS"},
    ),
    "labels, the head's layers": (
        "roberta", "RobertaForSequenceClassification", "classify",
        "RobertaForSequenceClassification", ["query", "dense"], {},
    ),
    "labels of tokens": (
        "bert", "BertForTokenClassification", "token_classify", "BertForTokenClassification",
        ATTENTION, {"task_type": "TOKEN_CLS"},
    ),
}  # fmt: skip
KERNELS: list[CpuKernels] = [*usable_kernels(), "torch"]
RUNS = [(name, kernels) for name in CASES for kernels in KERNELS]
# Each shape on the fastest kernels and on torch's operations; one of them on all.
RUNS = [(name, each) for name, each in RUNS if name == "bert" or each in (KERNELS[0], "torch")]
RUNS = [(name, each) for name, each in RUNS if name != "mpnet" or each == "torch"]  # no program


def make(
    folder: Path, case: Case, monkeypatch: pytest.MonkeyPatch, count: int = 3
) -> dict[str, Path]:
    """Write a model, and adapters of different ranks for it; these by name."""
    shape, name, _, trained, targets, settings = case
    config, _, options, varlen = SHAPES[shape]
    if "For" in name:
        options = {**options, "num_labels": 3}
    monkeypatch.setitem(SHAPES, shape, (config, name, options, varlen))
    save(folder / "model", shape)
    if case[2] == "embed":
        write_modules(folder / "model", ["Transformer", "Pooling"], {"pooling_mode": "mean"})
    found = {}
    for number in range(count):
        torch.manual_seed(number)
        base = getattr(transformers, trained).from_pretrained(folder / "model")
        lora = LoraConfig(
            r=2 + number, lora_alpha=8, target_modules=targets, init_lora_weights=False, **settings
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = get_peft_model(base, lora)
            with torch.no_grad():
                for key, parameter in adapted.named_parameters():
                    if "modules_to_save" in key:
                        parameter.normal_(std=0.3)
            adapted.save_pretrained(str(folder / f"a{number}"))
        found[f"a{number}"] = folder / f"a{number}"
    return found


def peft_numbers(folder: Path, adapter: Path | None, case: Case, ids: list[int]) -> Any:
    base = getattr(transformers, case[3]).from_pretrained(folder / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = base if adapter is None else PeftModel.from_pretrained(base, adapter)
        output = model.eval()(input_ids=torch.tensor([ids]), output_hidden_states=True)
    if case[2] == "embed":
        last = output.get("last_hidden_state", output.hidden_states[-1])
        return last[0].mean(0).detach().double().numpy()
    return output.logits[0].detach().double().softmax(-1).numpy()


def engine_with(folder: Path, adapters: dict[str, Path], **options: Any) -> PoolingEngine:
    engine = engine_of(folder / "model", enable_lora=True, max_lora_rank=8, **options)
    for name, place in adapters.items():
        engine.add_adapter(name, place)
    return engine


@pytest.mark.parametrize(("name", "kernels"), RUNS)
def test_numbers_are_those_of_peft(
    name: str, kernels: CpuKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    adapters = make(tmp_path, case, monkeypatch)
    engine = engine_with(tmp_path, adapters, cpu_kernels=kernels, max_loras=2)
    inputs, task = texts(5), case[2]
    names = ["", "a0", "a1", "a2", "a0", "", "a2", "a1"]
    requests = [
        encode(str(n), ids, task, adapter=adapter)
        for n, (ids, adapter) in enumerate(zip(inputs, names, strict=True))
    ]
    together = run(engine, requests)
    for n, (ids, adapter) in enumerate(zip(inputs, names, strict=True)):
        found = numbers(together[str(n)].pooled)
        wanted = peft_numbers(tmp_path, adapters.get(adapter), case, ids)
        assert np.abs(found - wanted).max() < 1e-4 * max(1.0, np.abs(wanted).max())
        if kernels != "torch":  # the same bits alone as beside others
            assert run(engine, [requests[n]])[str(n)].pooled == together[str(n)].pooled
    base = peft_numbers(tmp_path, None, case, inputs[4])
    assert np.abs(numbers(together["4"].pooled) - base).max() > 1e-3  # it does change something


def test_adapters_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = make(tmp_path, CASES["bert"], monkeypatch, count=1)
    engine = engine_with(tmp_path, {})
    request = encode("a", [5, 6], adapter="a0")
    with pytest.raises(RejectedByEngine, match="adapter is not loaded"):
        engine.add(request)
    engine.add_adapter("a0", adapters["a0"])
    assert engine.adapter_ids == {"a0"}
    engine.add(request)
    assert engine.load().waiting_adapters == ("a0",)
    with pytest.raises(AdapterError, match="in use"):
        engine.remove_adapter("a0")
    (output,) = engine.step()
    engine.remove_adapter("a0")
    with pytest.raises(RejectedByEngine, match="adapter is not loaded"):
        engine.add(request)
    engine.drop_weights()
    engine.restore_runner(engine_of(tmp_path / "model", enable_lora=True, max_lora_rank=8).runner)
    engine.add_adapter("a0", adapters["a0"])
    assert run(engine, [request])["a"].pooled == output.pooled
    plain = engine_of(tmp_path / "model")
    with pytest.raises(AdapterError, match="takes no adapters"):
        plain.add_adapter("a0", adapters["a0"])


def test_heads_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = make(tmp_path, CASES["labels"], monkeypatch, count=1)
    other = tmp_path / "other"
    other.mkdir()
    shape = ("BertConfig", "BertForSequenceClassification", {"num_labels": 5}, True)
    monkeypatch.setitem(SHAPES, "bert", shape)
    save(other / "model", "bert")
    with pytest.raises(AdapterError, match=r"classifier.\w+.*\[3.*\[5"):
        engine_with(other, adapters)
    monkeypatch.setitem(SHAPES, "bert", ("BertConfig", "BertModel", {}, True))
    save(other / "model", "bert")
    with pytest.raises(AdapterError, match="modules_to_save is not supported"):
        engine_with(other, adapters)
