"""Attention of other kinds than a plain one or a window's, token by token against transformers.

Windows, chunks and lengths at which frequencies or scales change are smaller than the texts.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from headrace.protocol.common.context_length import switch_length
from headrace.workers.attention import sparse
from headrace.workers.attention.backend import KVLayerShape
from headrace.workers.attention.hook import AttentionHook, attention_of, vocab_rows
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.errors import ModelUnsupported
from headrace.workers.native.graph import NotStatic
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.runner import NativeRunner
from headrace.workers.torch_runner.model_runner import ModelRunner
from headrace.workers.torch_runner.self_check import check_model
from tests.workers.driving import request, run
from tests.workers.tiny_models import VOCAB

LENGTHS = (5, 12, 23, 31, 47, 90)
NEW = 12
NEAR = 1e-4  # logits closer than this are equal but for float32's rounding
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
EXPERTS: dict[str, Any] = {
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 8,
}
# With few heads many scores would be exactly 0, and which of equals are chosen is up to torch.
SPARSE = {**EXPERTS, **LATENT, "index_topk": 16, "index_n_heads": 32, "index_head_dim": 16}
LLAMA4: dict[str, Any] = {
    "num_hidden_layers": 4,
    "no_rope_layers": [1, 1, 1, 0],
    "floor_scale": 8,
    "attn_scale": 0.5,
    "head_dim": 8,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "intermediate_size_mlp": 64,
    "interleave_moe_layer_step": 2,
}
LONG: dict[str, Any] = {
    "original_max_position_embeddings": 26,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0, 2.0, 8.0, 3.0],
        "original_max_position_embeddings": 26,
    },
}
FAR: dict[str, Any] = {
    "original_max_position_embeddings": 4096,
    "rope_parameters": {**LONG["rope_parameters"], "original_max_position_embeddings": 4096},
}
FALCON: dict[str, Any] = {"new_decoder_architecture": False, "bias": True}
# name: (configuration, model class, options that differ from the common ones)
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama4": ("Llama4TextConfig", "Llama4ForCausalLM", {**LLAMA4, "attention_chunk_size": 8}),
    "llama4 without chunks": (
        "Llama4TextConfig",
        "Llama4ForCausalLM",
        {**LLAMA4, "attention_chunk_size": None, "layer_types": ["full_attention"] * 4},
    ),
    "bloom": ("BloomConfig", "BloomForCausalLM", {"n_layer": 2, "n_head": 6, "hidden_size": 48}),
    "mpt": ("MptConfig", "MptForCausalLM", {"d_model": 36, "n_heads": 6, "n_layers": 2}),
    "falcon with ALiBi": (
        "FalconConfig",
        "FalconForCausalLM",
        {**FALCON, "alibi": True, "multi_query": False, "parallel_attn": False},
    ),
    "falcon": ("FalconConfig", "FalconForCausalLM", {**FALCON, "alibi": False}),
    "falcon of groups": (
        "FalconConfig",
        "FalconForCausalLM",
        {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "gpt_neo": (
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 10,
        },
    ),
    "deepseek_v32": ("DeepseekV32Config", "DeepseekV32ForCausalLM", SPARSE),
    "glm_moe_dsa": ("GlmMoeDsaConfig", "GlmMoeDsaForCausalLM", SPARSE),
    "hy_v4": ("HYV4Config", "HYV4ForCausalLM", SPARSE),
    "axk2": ("AXK2Config", "AXK2ForCausalLM", SPARSE),
    "dots3_note": (
        "Dots3NoteTextConfig",
        "Dots3NoteForCausalLM",
        {
            **SPARSE,
            **{f"swa_{name}": value for name, value in LATENT.items() if "rope_head" not in name},
            "head_dim": 20,
            "swa_num_attention_heads": 4,
            "swa_head_dim": 20,
            "swa_qk_nope_head_dim": 12,
            "sliding_window": 10,
            "n_shared_experts": 1,
            "shared_experts_intermediate_size": 32,
            "layer_types": ["indexed_attention", "sliding_attention"],
        },
    ),
    "minimax_m3": (
        "MiniMaxM3VLTextConfig",
        "MiniMaxM3VLForCausalLM",
        {
            **EXPERTS,
            "head_dim": 8,
            "rotary_dim": 4,
            "index_n_heads": 2,
            "index_head_dim": 8,
            "index_block_size": 4,
            "index_topk_blocks": 3,
            "index_local_blocks": 1,
            "dense_intermediate_size": 64,
            "shared_intermediate_size": 32,
            "layer_types": ["full_attention", "minimax_m3_sparse"],
        },
    ),
    "granite_swa": ("GraniteSWAConfig", "GraniteSWAForCausalLM", {"sliding_window": 10}),
    "mimo_v2_flash": (
        "MiMoV2FlashConfig",
        "MiMoV2FlashForCausalLM",
        {**EXPERTS, "head_dim": 16, "v_head_dim": 8, "sliding_window": 10},
    ),
    "phi3 with longrope": ("Phi3Config", "Phi3ForCausalLM", LONG),
}
KINDS["phimoe with longrope"] = (
    "PhimoeConfig",
    "PhimoeForCausalLM",
    {
        "num_local_experts": 4,
        "rope_parameters": {**LONG["rope_parameters"], "short_mscale": 1.1, "long_mscale": 1.3},
        "original_max_position_embeddings": 26,
    },
)
KINDS["gemma3 with longrope"] = (
    "Gemma3TextConfig",
    "Gemma3ForCausalLM",
    {
        "head_dim": 8,
        "sliding_window": 10,
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": LONG["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
)
COMPILED = {"gpt_neo", "granite_swa", "mimo_v2_flash", "phi3 with longrope"}


def make_model(name: str, **options: Any) -> PreTrainedModel:
    config_name, class_name, own = KINDS[name]
    config = getattr(transformers, config_name)(**{**COMMON, **own, **options})
    torch.manual_seed(1)
    model: PreTrainedModel = getattr(transformers, class_name)(config).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if (weight.ndim == 1 and "norm" not in key) or "sink" in key:
                weight.normal_(std=0.3)
    return model


def probed(model: PreTrainedModel) -> AttentionHook:
    hook = AttentionHook()
    with torch.inference_mode():
        hook.probe(model)
    return hook


def make_prompts() -> list[list[int]]:
    """Of all lengths; the last two share a beginning with the longest."""
    rng = random.Random(3)
    prompts = [[rng.randrange(VOCAB) for _ in range(length)] for length in LENGTHS]
    return [*prompts, prompts[-1][:40], [*prompts[-1][:33], 7, 8, 9]]


@torch.inference_mode()
def check_text(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> None:
    """Each token must be the best by transformers' forward pass over the text before it.

    One pass over all of the text tells that, but where its length changes its first tokens, too.
    """
    text = torch.tensor([prompt + tokens])
    switches = switch_length(model.config.to_dict()) is not None
    with attention_of(model, "sdpa" if "Falcon" in type(model).__name__ else "eager"):
        ends = range(len(prompt), text.shape[1])
        if switches:
            rows = [model(input_ids=text[:, :end], use_cache=False).logits[0, -1] for end in ends]
        else:
            rows = list(model(input_ids=text, use_cache=False).logits[0, len(prompt) - 1 : -1])
    assert len(tokens) == NEW
    for logits, token in zip(rows, tokens, strict=True):
        assert logits.max() - logits[token] < NEAR


def check_texts(model: PreTrainedModel, runner: Any) -> None:
    """All prompts, together, in chunks, and again with their prefixes cached."""
    engine = assemble_engine(runner, max_num_seqs=8, max_num_batched_tokens=32)
    prompts = make_prompts()
    arrivals = [(n, request(str(n), prompt, max_tokens=NEW)) for n, prompt in enumerate(prompts)]
    answers = run(engine, arrivals)
    again = run(engine, [(0, request("again", prompts[4], max_tokens=NEW))])
    texts = [answers[str(n)].tokens for n in range(len(prompts))]
    assert len(set(map(tuple, texts))) > 5, "the texts must differ to tell anything"
    for prompt, tokens in zip([*prompts, prompts[4]], [*texts, again["again"].tokens], strict=True):
        check_text(model, prompt, tokens)


@pytest.mark.parametrize("name", KINDS)
def test_texts_are_those_of_transformers(name: str) -> None:
    model = make_model(name)
    runner = ModelRunner(model, probed(model), max_model_len=200, num_blocks=80, block_size=8)
    check_texts(model, runner)


@pytest.mark.parametrize("name", KINDS)
def test_programs_compute_them_or_refuse(name: str) -> None:
    model = make_model(name)
    hook = probed(model)
    try:
        compiled = CompiledProgram(model, hook, threads=1)
    except NotStatic:
        assert name not in COMPILED
        return
    assert name in COMPILED
    sizes: dict[str, Any] = {"max_model_len": 200, "num_blocks": 40, "block_size": 16}
    check_texts(model, NativeRunner(compiled, vocab_size=vocab_rows(model), **sizes))


def checked(model: PreTrainedModel, max_model_len: int = 200) -> None:
    hook = probed(model)

    def make_runner(num_blocks: int) -> ModelRunner:
        sizes: dict[str, Any] = {"num_blocks": num_blocks, "block_size": 8}
        return ModelRunner(model, hook, max_model_len=max_model_len, **sizes)

    check_model(model, make_runner, max_model_len, 8, hook=hook)


@pytest.mark.parametrize("name", KINDS)
def test_they_pass_the_self_check(name: str) -> None:
    checked(make_model(name))


def break_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "headrace.workers.attention.pass_options._POSITIONS_FROM_CACHE"
    monkeypatch.setattr(path, frozenset())


def break_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.workers.attention.hook._chunk_of", lambda module: None)
    monkeypatch.setattr(AttentionHook, "_check_layer_types", lambda hook, model: None)


def break_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "headrace.workers.attention.sparse.SparseQuery.choose"
    monkeypatch.setattr(path, lambda query, rows, keys, visible: visible)


def break_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "headrace.workers.attention.sparse.BlockChoice.choose"
    monkeypatch.setattr(path, lambda query, rows, keys, visible: visible)


def break_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "headrace.workers.torch_runner.model_runner.long_rows"
    monkeypatch.setattr(path, lambda batch, switch_length: None)


@pytest.mark.parametrize(
    ("name", "fault", "options"),
    [
        # Within the text, just beyond the short texts of the check, and beyond all of them.
        ("llama4 without chunks", break_positions, {"floor_scale": 8}),
        ("llama4 without chunks", break_positions, {"floor_scale": 100}),
        ("llama4 without chunks", break_positions, {"floor_scale": 8192}),
        ("llama4", break_chunks, {"attention_chunk_size": 100, "floor_scale": 9000}),
        ("llama4", break_chunks, {"attention_chunk_size": 8192, "floor_scale": 9000}),
        ("deepseek_v32", break_choice, {"index_topk": 100}),
        ("deepseek_v32", break_choice, {"index_topk": 2048}),
        ("minimax_m3", break_blocks, {}),
        ("minimax_m3", break_blocks, {"index_block_size": 128, "index_topk_blocks": 16}),
        ("phi3 with longrope", break_switch, {}),
        ("phi3 with longrope", break_switch, FAR),
    ],
)
def test_the_self_check_finds_faults_of_long_texts(
    name: str,
    fault: Callable[[pytest.MonkeyPatch], None],
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(monkeypatch)
    model = make_model(name, **{"max_position_embeddings": 16384, **options})
    with pytest.raises(ModelUnsupported, match="generates different text"):
        checked(model, 16384)


def test_large_numbers_are_checked_and_kept() -> None:
    options = {"max_position_embeddings": 16384, "attention_chunk_size": 8192, "floor_scale": 8192}
    model = make_model("llama4", num_hidden_layers=8, no_rope_layers=[1, 1, 1, 0] * 2, **options)
    layers = model.model.layers
    checked(model, 16384)
    assert model.config.attention_chunk_size == model.config.floor_scale == 8192
    assert layers[3].self_attn.floor_scale == 8192
    assert model.model.layers is layers


@pytest.mark.parametrize("name", ["deepseek_v32", "glm_moe_dsa"])
def test_equal_scores_do_not_fail_the_self_check(name: str) -> None:
    checked(make_model(name, index_n_heads=2))


def test_an_indexer_of_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sparse._LAYOUTS, "HYV4Indexer", sparse._LAYOUTS["DeepseekV32Indexer"])
    with pytest.raises(ModelUnsupported, match="scores its keys in a way of its own"):
        checked(make_model("hy_v4"))


def test_an_indexers_keys_are_cached_with_the_layers() -> None:
    hook = probed(make_model("glm_moe_dsa"))
    assert hook.layers.count(KVLayerShape(1, 16, 0)) == 2
    assert len(hook.layers) == 4


@pytest.mark.parametrize(
    ("config", "model_class", "options", "obstacle"),
    [
        (
            "DeepseekV4Config", "DeepseekV4ForCausalLM",
            {**EXPERTS, "head_dim": 16, "qk_rope_head_dim": 8, "q_lora_rank": 16,
             "o_lora_rank": 16, "o_groups": 2, "sliding_window": 10, "num_key_value_heads": 1},
            "compressed keys",
        ),
        (
            "InklingTextConfig", "InklingForCausalLM",
            {**EXPERTS, "head_dim": 8, "swa_head_dim": 8, "swa_num_attention_heads": 4,
             "swa_num_key_value_heads": 2, "sliding_window_size": 16, "rel_extent": 16,
             "d_rel": 4},
            "biases of scores",
        ),
    ],
)  # fmt: skip
def test_what_is_not_built_is_named(
    config: str, model_class: str, options: dict[str, Any], obstacle: str
) -> None:
    model = getattr(transformers, model_class)(
        getattr(transformers, config)(**{**COMMON, **options})
    ).eval()
    with pytest.raises(ModelUnsupported, match=obstacle):
        probed(model)
