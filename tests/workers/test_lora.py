"""Adapters in the engine: PEFT's own texts, whatever runs beside them and however."""

from pathlib import Path

import pytest
import torch
from adapters import tensors_of
from driving import run
from lora_engines import KINDS, NEW, Tiny, adapted, make_prompts, make_tiny, reference
from safetensors.torch import save_file

from protocol.config import EngineConfig
from workers.attention.backend import AttentionBatch, Span
from workers.errors import ModelUnsupported, RequestRefused
from workers.lora.layers import add_products
from workers.lora.slots import split_rows
from workers.sequence import Chunk, Sequence

NAMES = ("", *KINDS)


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen2", "qwen3", "phi3", "qwen2_moe"])
def any_model(request, tmp_path_factory) -> Tiny:
    kinds = KINDS
    if request.param in ("phi3", "qwen2_moe"):  # other layers, or none for some of the kinds
        targets = ["qkv_proj", "down_proj"] if request.param == "phi3" else ["q_proj", "o_proj"]
        kinds = {"usual": {"targets": targets}, "wide": {"targets": targets, "rank": 16}}
    return make_tiny(tmp_path_factory.mktemp(request.param), request.param, kinds)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("llama"), "llama")


def check_all(tiny: Tiny, engine, arrivals) -> dict:
    answers = run(engine, arrivals)
    for _, one in arrivals:
        tiny.check(one.adapter, one.prompt_token_ids, answers[one.request_id].tokens)
    return answers


def mixed(tiny: Tiny, count: int, every: int = 0, longest: int = 40, **params) -> list:
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
    runner = any_model.engine().runner
    names = ["", *any_model.adapters]
    prompts = make_prompts(len(names), 5, 30)
    sequences = []
    rows, positions, wanted, spans, block = [], [], [], [], 0
    for name, prompt in zip(names, prompts, strict=True):
        blocks = list(range(block, block + 2))
        block += 2
        spans.append(Span(len(rows), len(prompt), 0, blocks))
        rows += prompt
        positions += range(len(prompt))
        wanted.append(len(rows) - 1)
        sequences.append(_chunk(name, prompt))
    with torch.inference_mode(), runner._slots.applied(sequences, range(len(sequences))):
        found = runner.forward(rows, positions, wanted, AttentionBatch([], spans))
    for name, prompt, ours in zip(names, prompts, found, strict=True):
        model = reference(any_model.path, any_model.adapters.get(name))
        with torch.inference_mode():
            theirs = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def _chunk(adapter: str, prompt: tuple[int, ...]) -> Chunk:
    return Chunk(Sequence.of(adapted("r", prompt, adapter), 0, 0.0), 0, len(prompt), True)


@pytest.mark.parametrize("max_loras", [1, 2, 3])
def test_more_adapters_than_places(llama: Tiny, max_loras: int) -> None:
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
    for turn in range(2):
        for name in NAMES:
            answers = check_all(llama, engine, [(0, adapted(f"{name}{turn}", prompt, name))])
            (answer,) = answers.values()
            assert answer.outputs[0].admission.cached_tokens == 32 * turn


def test_drafts(llama: Tiny) -> None:
    speculation = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1}
    engine = llama.engine(speculative_config=speculation)
    prompts = [prompt[:6] * 5 for prompt in make_prompts(10, 6)]
    arrivals = [
        (0, adapted(f"r{number}", prompt, NAMES[number % len(NAMES)], max_tokens=40))
        for number, prompt in enumerate(prompts)
    ]
    check_all(llama, engine, arrivals)
    assert engine.stats().accepted_tokens > 0


def test_requests_of_unknown_adapters_may_be_run_elsewhere(llama: Tiny) -> None:
    engine = llama.engine()
    with pytest.raises(RequestRefused, match="adapter is not loaded") as caught:
        engine.add(adapted("r", (1, 2), "unknown"))
    assert caught.value.retry_elsewhere


def test_adapters_need_torchs_operations(llama: Tiny) -> None:
    with pytest.raises(ModelUnsupported, match="LoRA adapters need torch's operations"):
        llama.engine(cpu_kernels="native")


def test_a_step_without_adapters_does_not_touch_them(llama: Tiny, monkeypatch) -> None:
    engine, prompt = llama.engine(), (1, 2, 3)
    check_all(llama, engine, [(0, adapted("a", prompt, "wide"))])
    monkeypatch.setattr("workers.lora.layers.add_products", None)
    check_all(llama, engine, [(0, adapted("b", prompt))])


def test_a_failed_step_leaves_no_adapter_behind(llama: Tiny, monkeypatch) -> None:
    engine = llama.engine()
    engine.add(adapted("a", (1, 2, 3), "wide"))
    with monkeypatch.context() as patch:
        patch.setattr("workers.lora.layers.add_products", None)
        with pytest.raises(TypeError):
            engine.step()
    assert engine.runner._slots._step.parts is None


def test_what_overflows_in_one_adapter_stays_there(llama: Tiny) -> None:
    """Its products with the rows of others are infinite, too."""
    engine = llama.engine()
    adapter = engine._adapters["wide"]
    for pair in adapter.pairs.values():
        pair.down.fill_(3e38)
    arrivals = mixed(llama, 10)
    answers = run(engine, arrivals)
    for _, one in arrivals:
        if one.adapter == "wide":
            assert answers[one.request_id].finish_reason == "error"
        else:
            tokens = answers[one.request_id].tokens
            llama.check(one.adapter, one.prompt_token_ids, tokens)


def test_only_as_much_is_multiplied_as_the_step_needs(llama: Tiny, monkeypatch) -> None:
    """Also of a step with a prompt of one adapter beside decodes of another and of none."""
    engine = llama.engine()
    check_all(llama, engine, mixed(llama, 10))
    products: list[tuple[int, int]] = []

    def spy(results, rows, down, up, not_own) -> None:
        products.append((len(rows), len(down)))
        add_products(results, rows, down, up, not_own)

    monkeypatch.setattr("workers.lora.layers.add_products", spy)
    check_all(llama, engine, [(0, adapted("r", (1, 2, 3), "stable"))])
    assert {rank for _, rank in products} == {4}
    assert len(products) == NEW * 2 * 2  # two layers of both kinds
    products.clear()
    prompt = make_prompts(1, 40)[0]
    arrivals = [(0, adapted("a", (1, 2), "usual")), (2, adapted("b", prompt, max_tokens=1))]
    check_all(llama, engine, [*arrivals, (4, adapted("c", prompt, "wide", max_tokens=1))])
    assert {rows for rows, rank in products if rank == 16} == {40}
    assert {rows for rows, rank in products if rank == 8} == {1, 2}


def test_rows_in_parts() -> None:
    runs = [(0, 1), (-1, 2), (3, 1), (-1, 20), (-1, 3), (-1, 9), (2, 10), (2, 10), (1, 4)]
    assert list(split_rows(runs)) == [(0, [0, -1, -1, 3]), (36, [2] * 20), (56, [1] * 4)]
    assert list(split_rows([(-1, 5), (-1, 40)])) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_other_dtypes(llama: Tiny, dtype: str, quantization: str | None) -> None:
    engine = llama.engine(dtype=dtype, quantization=quantization)
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
