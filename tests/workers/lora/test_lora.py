"""Adapters in the engine: PEFT's own texts, whatever else the batch holds.

On torch's operations, and on the kernels for each instruction set that the processor has.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from headrace.protocol.config import CpuKernels, Dtype, EngineConfig, Quantization
from headrace.protocol.to_worker import Generate
from headrace.workers.attention.backend import AttentionBatch, Span
from headrace.workers.engine import step_budget
from headrace.workers.engine.engine import Engine
from headrace.workers.errors import RejectedByEngine
from headrace.workers.lora.layers import add_products
from headrace.workers.lora.slots import split_rows
from headrace.workers.native.runner import NativeRunner
from headrace.workers.sequence.sequence import Chunk, Sequence
from tests.lora_adapters import tensors_of
from tests.workers.driving import Answer, run
from tests.workers.lora.lora_engines import (
    KINDS,
    NEW,
    Tiny,
    adapted,
    make_prompts,
    make_tiny,
    reference,
)
from tests.workers.processors import (
    KERNELS,
    needs_int8,
    needs_kernels,
    on_each_set,
    use_kernels,
)

NAMES = ("", *KINDS)


ANY_KERNELS: list[CpuKernels] = [*KERNELS, "torch"]
MODELS = ["llama", "gpt2", "qwen2", "qwen3", "phi3", "qwen2_moe"]
# One model after the other: PEFT's texts are found out once for each.
PATHS = [(model, kernels) for model in MODELS for kernels in ANY_KERNELS]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """A tiny model by its name, made once."""

    @cache
    def make(model: str) -> Tiny:
        kinds = KINDS
        if model in ("phi3", "qwen2_moe"):  # other layers, or none for some of the kinds
            targets = ["qkv_proj", "down_proj"] if model == "phi3" else ["q_proj", "o_proj"]
            fused = ["gate_up_proj"] if model == "phi3" else []
            kinds = {
                "usual": {"targets": targets},
                "wide": {"targets": targets + fused, "rank": 16},
            }
        return make_tiny(tmp_path_factory.mktemp(model), model, kinds)

    return make


@pytest.fixture(scope="module", params=PATHS, ids="-".join)
def any_model(request: pytest.FixtureRequest, tiny: Callable[[str], Tiny]) -> Tiny:
    model, kernels = request.param
    use_kernels(kernels)
    return replace(tiny(model), kernels=kernels)


@pytest.fixture(scope="module", params=ANY_KERNELS)
def llama(request: pytest.FixtureRequest, tiny: Callable[[str], Tiny]) -> Tiny:
    use_kernels(request.param)
    return replace(tiny("llama"), kernels=request.param)


@pytest.fixture(scope="module")
def torch_llama(tiny: Callable[[str], Tiny]) -> Tiny:
    return replace(tiny("llama"), kernels="torch")


def check_all(
    tiny: Tiny, engine: Engine, arrivals: list[tuple[int, Generate]]
) -> dict[str, Answer]:
    answers = run(engine, arrivals)
    for _, one in arrivals:
        tiny.check(one.adapter, one.prompt_token_ids, answers[one.request_id].tokens)
    return answers


def mixed(tiny: Tiny, count: int, every: int = 0, longest: int = 40, **params: Any) -> list[Any]:
    """Requests of all adapters and of none, one before every so many steps."""
    names = ["", *tiny.adapters]
    return [
        (every * number, adapted(f"r{number}", prompt, names[number % len(names)], **params))
        for number, prompt in enumerate(make_prompts(count, longest=longest))
    ]


def test_texts_of_one_batch_are_pefts(any_model: Tiny) -> None:
    answers = check_all(any_model, any_model.engine(), mixed(any_model, 12))
    assert len({tuple(answer.tokens) for answer in answers.values()}) > 8


def test_adapters_change_the_text(llama: Tiny) -> None:
    prompt = make_prompts(1, 20)[0]
    arrivals = [(0, adapted(name, prompt, name)) for name in NAMES]
    answers = check_all(llama, llama.engine(), arrivals)
    assert len({tuple(answer.tokens) for answer in answers.values()}) == len(NAMES)


def test_logits_are_pefts(any_model: Tiny) -> None:
    names = ["", *any_model.adapters]
    prompts = make_prompts(len(names), 5, 30)
    found = logits(any_model.engine().runner, names, prompts)
    for name, prompt, ours in zip(names, prompts, found, strict=True):
        theirs = reference_logits(any_model, name, prompt)
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def logits(runner: Any, names: list[str], prompts: list[tuple[int, ...]]) -> torch.Tensor:
    """Of the last tokens of prompts [prompts, vocabulary], each with an adapter, in one step."""
    rows: list[int] = []
    positions: list[int] = []
    wanted: list[int] = []
    spans: list[Span] = []
    for number, prompt in enumerate(prompts):
        spans.append(Span(len(rows), len(prompt), 0, [2 * number, 2 * number + 1]))
        rows += prompt
        positions += range(len(prompt))
        wanted.append(len(rows) - 1)
    chunks = [_chunk(name, prompt) for name, prompt in zip(names, prompts, strict=True)]
    step, order = (rows, positions, wanted, AttentionBatch([], spans)), range(len(chunks))
    with torch.inference_mode():
        if isinstance(runner, NativeRunner):
            assert runner._slots is not None
            return runner.forward(*step, runner._slots.row_slots(chunks, order)).clone()
        with runner._slots.applied(chunks, order):
            found: torch.Tensor = runner.forward(*step)
            return found


def reference_logits(tiny: Tiny, name: str, prompt: tuple[int, ...]) -> torch.Tensor:
    model = reference(tiny.path, tiny.adapters.get(name))
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
        return found


@on_each_set
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", [None, "int8", "int8_dynamic", "q8_0"])
def test_adapters_of_rounded_models(
    torch_llama: Tiny, dtype: Dtype, quantization: Quantization, kernel_set: CpuKernels
) -> None:
    is_exact = dtype == "float32" and quantization is None
    options = {"cpu_kernels": kernel_set, "dtype": dtype, "quantization": quantization}
    check_changes(torch_llama, 1e-4 if is_exact else 0.1, **options)


@pytest.mark.parametrize("kernels", ANY_KERNELS)
@pytest.mark.parametrize("cache", ["int8", "fp8"])
def test_adapters_with_rounded_caches(torch_llama: Tiny, cache: str, kernels: CpuKernels) -> None:
    use_kernels(kernels)
    tolerance = 0.1 if cache == "int8" else 0.3  # three bits of fraction
    check_changes(torch_llama, tolerance, cpu_kernels=kernels, kv_cache_dtype=cache)


def check_changes(tiny: Tiny, tolerance: float, **options: Any) -> None:
    """What adapters change is what they change in the model itself, but for the rounding."""
    engine = tiny.engine(**options)
    names, prompt = list(tiny.adapters), make_prompts(1, 20, 30)[0]
    prompts = [prompt] * (1 + len(names))
    base, *ours = logits(engine.runner, ["", *names], prompts)
    of_base = reference_logits(tiny, "", prompt)
    for name, found in zip(names, ours, strict=True):
        theirs = reference_logits(tiny, name, prompt)
        error = ((found - base) - (theirs - of_base)).square().mean().sqrt()
        assert error < tolerance * theirs.std(), name


@on_each_set
@pytest.mark.parametrize("cache", ["auto", "int8", "fp8"])
def test_what_a_row_gets_depends_on_no_other(
    torch_llama: Tiny, cache: str, kernel_set: CpuKernels
) -> None:
    """To the last bit: a text with a seed is the same whatever else the batch holds."""
    names = ["", *torch_llama.adapters]
    prompts = make_prompts(len(names), 5, 30)
    runner = torch_llama.engine(cpu_kernels=kernel_set, kv_cache_dtype=cache).runner
    together = logits(runner, names, prompts)
    for index, (name, prompt) in enumerate(zip(names, prompts, strict=True)):
        assert torch.equal(together[index], logits(runner, [name], [prompt])[0])
        turned = logits(runner, [names[0], name], [prompts[0], prompt])[1]
        assert torch.equal(together[index], turned)


def _chunk(adapter: str, prompt: tuple[int, ...]) -> Chunk:
    return Chunk(Sequence.of(adapted("r", prompt, adapter), 0, 0.0), 0, len(prompt), True)


@pytest.mark.parametrize("max_loras", [1, 2, 3])
def test_more_adapters_than_slots(llama: Tiny, max_loras: int) -> None:
    engine = llama.engine(max_loras=max_loras)
    check_all(llama, engine, mixed(llama, 20, every=1, longest=12))
    check_all(llama, engine, mixed(llama, 20, longest=12))


def test_prompts_in_chunks_beside_decodes(llama: Tiny) -> None:
    check_all(llama, llama.engine(max_num_batched_tokens=7), mixed(llama, 15, every=3))


def test_preempted_texts_go_on(llama: Tiny) -> None:
    engine = llama.engine(kv_cache_bytes=16 * 2 * 2 * 8 * 4 * 12, block_size=16, max_model_len=64)
    check_all(llama, engine, mixed(llama, 12, longest=30, max_tokens=30))
    assert engine.stats().preemptions > 0


def test_prefixes_are_not_shared_among_adapters(llama: Tiny) -> None:
    """Each text is its own with a warm cache as with none, and finds what is its own alone."""
    engine, prompt = llama.engine(), make_prompts(1, 40)[0]
    for round_ in range(2):
        for name in NAMES:
            answers = check_all(llama, engine, [(0, adapted(f"{name}{round_}", prompt, name))])
            (answer,) = answers.values()
            admission = answer.outputs[0].admission
            assert admission is not None
            assert admission.cached_tokens == 32 * round_


def test_drafts(llama: Tiny) -> None:
    speculation = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1}
    engine = llama.engine(speculative_config=speculation)
    prompts = [prompt[:6] * 5 for prompt in make_prompts(10, 6)]
    arrivals = [
        (0, adapted(f"r{number}", prompt, NAMES[number % len(NAMES)], max_tokens=40))
        for number, prompt in enumerate(prompts)
    ]
    check_all(llama, engine, arrivals)
    assert engine.stats().draft_tokens > 0


def test_requests_of_unknown_adapters_may_be_run_elsewhere(llama: Tiny) -> None:
    engine = llama.engine()
    with pytest.raises(RejectedByEngine, match="adapter is not loaded") as caught:
        engine.add(adapted("r", (1, 2), "unknown"))
    assert caught.value.retry_elsewhere


@needs_kernels
def test_models_with_adapters_run_on_the_compiled_kernels(torch_llama: Tiny) -> None:
    assert isinstance(torch_llama.engine(cpu_kernels="auto").runner, NativeRunner)


def test_a_step_without_adapters_does_not_touch_them(
    torch_llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, prompt = torch_llama.engine(), (1, 2, 3)
    check_all(torch_llama, engine, [(0, adapted("a", prompt, "wide"))])
    monkeypatch.setattr("headrace.workers.lora.layers.add_products", None)
    check_all(torch_llama, engine, [(0, adapted("b", prompt))])


def test_a_failed_step_leaves_no_adapter_behind(
    torch_llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = torch_llama.engine()
    engine.add(adapted("a", (1, 2, 3), "wide"))
    with monkeypatch.context() as patch:
        patch.setattr("headrace.workers.lora.layers.add_products", None)
        with pytest.raises(TypeError):
            engine.step()
    runner: Any = engine.runner
    assert runner._slots._step.spans is None


def test_what_overflows_in_one_adapter_stays_there(llama: Tiny) -> None:
    """Its products with the rows of others are infinite, too."""
    engine = llama.engine()
    adapters: Any = engine._adapters
    adapter = adapters["wide"]
    for pair in adapter.matrices.values():
        pair.down.fill_(3e38)
    arrivals = mixed(llama, 10)
    answers = run(engine, arrivals)
    for _, one in arrivals:
        if one.adapter == "wide":
            assert answers[one.request_id].finish_reason == "error"
        else:
            tokens = answers[one.request_id].tokens
            llama.check(one.adapter, one.prompt_token_ids, tokens)


def test_only_as_much_is_multiplied_as_the_step_needs(
    torch_llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a step with a prompt of one adapter among decodes of another and of none."""
    monkeypatch.setattr(step_budget, "SHORT_STEP_S", 60.0)  # a slow machine would cut the prompt
    engine = torch_llama.engine()
    check_all(torch_llama, engine, mixed(torch_llama, 10))
    products: list[tuple[int, int]] = []

    def spy(
        results: torch.Tensor,
        rows: torch.Tensor,
        down: torch.Tensor,
        up: torch.Tensor,
        not_own: torch.Tensor | None,
    ) -> None:
        products.append((len(rows), len(down)))
        add_products(results, rows, down, up, not_own)

    monkeypatch.setattr("headrace.workers.lora.layers.add_products", spy)
    check_all(torch_llama, engine, [(0, adapted("r", (1, 2, 3), "stable"))])
    assert {rank for _, rank in products} == {4}
    assert len(products) == NEW * 2 * 2  # two layers of both kinds
    products.clear()
    prompt = make_prompts(1, 40)[0]
    arrivals = [(0, adapted("a", (1, 2), "usual")), (2, adapted("b", prompt, max_tokens=1))]
    check_all(torch_llama, engine, [*arrivals, (4, adapted("c", prompt, "wide", max_tokens=1))])
    assert {rows for rows, rank in products if rank == 16} == {40}
    assert {rows for rows, rank in products if rank == 8} == {1, 2}


def test_rows_in_parts() -> None:
    runs = [(0, 1), (-1, 2), (3, 1), (-1, 20), (-1, 3), (-1, 9), (2, 10), (2, 10), (1, 4)]
    assert list(split_rows(runs)) == [(0, [0, -1, -1, 3]), (36, [2] * 20), (56, [1] * 4)]
    assert list(split_rows([(-1, 5), (-1, 40)])) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("quantization", [None, pytest.param("int8", marks=needs_int8)])
@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_other_dtypes(
    torch_llama: Tiny, dtype: Dtype, quantization: Quantization | None, kernels: str
) -> None:
    llama = torch_llama
    engine = llama.engine(dtype=dtype, quantization=quantization, cpu_kernels=kernels)
    answers = run(engine, mixed(llama, 10))
    assert all(len(answer.tokens) == 10 for answer in answers.values())


def test_a_rank_is_one_of_those_that_vllm_has() -> None:
    assert EngineConfig(max_lora_rank=320).max_lora_rank == 320
    with pytest.raises(ValueError, match="max_lora_rank"):
        EngineConfig(max_lora_rank=12)


def test_names_without_their_beginning(llama: Tiny, tmp_path: Path) -> None:
    """As of an adapter that was trained over the model without its head."""
    source = llama.adapters["usual"]
    (tmp_path / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    renamed = {
        name.replace("base_model.model.model.", "base_model.model.").replace(
            ".weight", ".default.weight"
        ): tensor
        for name, tensor in tensors_of(source).items()
    }
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    engine = llama.engine()
    engine.add_adapter("renamed", tmp_path)
    asked = adapted("r", make_prompts(1, 20)[0], "renamed")
    answers = run(engine, [(0, asked)])
    llama.check("usual", asked.prompt_token_ids, answers["r"].tokens)
