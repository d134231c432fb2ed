"""Models with recurrent layers from their folder to their texts, through the whole engine."""

import random
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from headrace.protocol.config import EngineConfig
from headrace.workers import load_runner
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.attention.varlen import VarlenBackend
from headrace.workers.build import build_engine
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.errors import ModelUnsupported
from headrace.workers.recurrent.probe import probe_layers, state_bytes
from headrace.workers.recurrent.slots import StateTensors
from headrace.workers.torch_runner.device_runner import DeviceRunner
from tests.workers.attention.reference_varlen import reference_varlen
from tests.workers.driving import Answer, request, run
from tests.workers.recurrent.reference import NEW, draw, generated
from tests.workers.recurrent.tiny_recurrent import tiny_recurrent

LENGTHS = (5, 70, 33, 1, 110)


def saved(folder: Path, name: str, **options: object) -> PreTrainedModel:
    model = tiny_recurrent(name, **options)
    model.save_pretrained(folder)
    return model


def engine_of(folder: Path, lines: list[str] | None = None, **options: Any) -> Engine:
    defaults = {
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
        "kv_cache_bytes": 2**20,
        "max_model_len": 160,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 24,
    }
    log = print if lines is None else lines.append
    return build_engine(folder, EngineConfig(**{**defaults, **options}), 1, log)


def cached(answer: Answer) -> int:
    return next(output.admission.cached_tokens for output in answer.outputs if output.admission)


@pytest.mark.parametrize("name", ["qwen3_next", "mamba2"])
def test_texts_are_those_of_transformers_with_hits_preemption_and_sleep(
    tmp_path: Path, name: str
) -> None:
    model = saved(tmp_path, name)
    rng = random.Random(4)
    prompts = [draw(rng, length) for length in LENGTHS]
    prompts.append(prompts[-1][:64] + draw(rng, 6))
    texts = [generated(model, prompt) for prompt in prompts]
    engine = engine_of(tmp_path)

    def preempt_all(step: int) -> None:
        if step == 9:
            engine.reset_prefix_cache(recompute_running=True)

    def check() -> None:
        answers = run(
            engine,
            [(2 * n, request(f"{n}", p, max_tokens=NEW)) for n, p in enumerate(prompts)],
            preempt_all,
        )
        for number, text in enumerate(texts):
            assert answers[f"{number}"].tokens[: len(text)] == text

    check()
    assert engine.stats().preemptions > 1
    engine.release()
    assert engine.memory_use()[1] == 0
    engine.restore_weights()
    engine.restore_cache()
    check()
    again = run(engine, [(0, request("again", prompts[-1], max_tokens=NEW))])["again"]
    assert again.tokens[: len(texts[-1])] == texts[-1]
    assert cached(again) == 64


def test_the_start_says_what_it_does(tmp_path: Path) -> None:
    saved(tmp_path, "mamba2")
    lines: list[str] = []
    runner = engine_of(tmp_path, lines, max_model_len=None, max_num_seqs=2).runner
    assert "torch's operations: Mamba2ForCausalLM has recurrent layers" in lines
    assert runner.max_model_len == 32768  # it has no positions
    assert runner.num_state_slots == 8
    assert runner.num_blocks == 2 * 32768 // 16  # they hold nothing


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantization": "int8"}])
@pytest.mark.parametrize("name", ["lfm2", "jamba"])
def test_rounded_models_pass_the_check(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    saved(tmp_path, name)
    engine = engine_of(tmp_path, **options)
    answer = run(engine, [(0, request("r", range(40)))])["r"]
    assert len(answer.tokens) == 8


def rejection(folder: Path, **options: Any) -> str:
    with pytest.raises(ModelUnsupported) as caught:
        engine_of(folder, **options)
    return caught.value.reason


def test_what_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path / "lfm2", "lfm2")
    assert "enable_lora" in rejection(tmp_path / "lfm2", enable_lora=True)
    assert "cpu_kernels" in rejection(tmp_path / "lfm2", cpu_kernels="portable")
    assert "states" in rejection(tmp_path / "lfm2", kv_cache_bytes=21_000)
    sizes: dict[str, Any] = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "intermediate_size": 32,
    }
    gemma = transformers.RecurrentGemmaConfig(**sizes, num_attention_heads=2, lru_width=32)
    transformers.RecurrentGemmaForCausalLM(gemma).save_pretrained(tmp_path / "gemma")
    assert "in its layers" in rejection(tmp_path / "gemma")
    rwkv = transformers.RwkvConfig(**sizes, attention_hidden_size=32)
    transformers.RwkvForCausalLM(rwkv).save_pretrained(tmp_path / "rwkv")
    assert "outside of transformers' cache" in rejection(tmp_path / "rwkv")


def test_the_check_finds_lost_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "bamba")
    monkeypatch.setattr(StateTensors, "copy", lambda *_: None)
    # What was never written may be anything, NaN too.
    assert re.search("logits differ|computes NaN", rejection(tmp_path))


def test_overlapping_steps(tmp_path: Path) -> None:
    model = tiny_recurrent("falcon_h1")
    rng = random.Random(5)
    prompts = [draw(rng, length) for length in (5, 30, 50)]
    texts = [generated(model, prompt) for prompt in prompts]
    hook = AttentionHook()
    with torch.inference_mode():
        shapes = probe_layers(model, hook)
    runner = DeviceRunner(
        model,
        hook,
        max_model_len=128,
        num_blocks=64,
        block_size=4,
        make_backend=partial(VarlenBackend, attention=partial(reference_varlen, multiple=4)),
        state_shapes=shapes,
        num_state_slots=5,
    )
    assert runner.cache_bytes == 64 * 4 * 3 * 2 * 2 * 8 * 4 + 5 * state_bytes(shapes)
    engine = assemble_engine(runner, max_num_seqs=3, max_num_batched_tokens=24)
    answers = run(engine, [(n, request(f"{n}", p, max_tokens=NEW)) for n, p in enumerate(prompts)])
    for number, text in enumerate(texts):
        assert answers[f"{number}"].tokens[: len(text)] == text


def test_states_follow_a_model_to_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "lfm2")
    rounded = engine_of(tmp_path, dtype="bfloat16", kv_cache_bytes=2**17).runner
    monkeypatch.setattr(load_runner, "is_slow_on_torch", lambda *_: True)
    exact = engine_of(tmp_path, dtype="bfloat16", kv_cache_bytes=2**17).runner
    assert rounded.num_state_slots == exact.num_state_slots
    state = 2 * 32 * 3  # layers, channels, inputs
    token = 2 * 2 * 8
    for runner, size in ((rounded, 2), (exact, 4)):
        numbers = runner.num_state_slots * state + runner.num_blocks * 16 * token
        assert runner.cache_bytes == numbers * size
