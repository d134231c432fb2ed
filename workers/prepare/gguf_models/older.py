"""Architectures with joined projections of queries, keys and values: GPT-2, BLOOM, Falcon, ..."""

from typing import Any

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.rope import RopeFactors
from headrace.workers.prepare.gguf_models.targets import Architecture, Names, Order, Target
from headrace.workers.prepare.gguf_models.values import Values, base, layer_eps, plain


def _gpt2(facts: ModelFacts, _: RopeFactors) -> Values:
    return {
        **plain(facts),
        "n_inner": facts.rows("ffn_up.weight"),
        "layer_norm_epsilon": layer_eps(facts),
        "n_positions": facts.rows("position_embd.weight"),
    }


def _bloom(facts: ModelFacts, _: RopeFactors) -> Values:
    values = plain(facts)
    more = {"layer_norm_epsilon": layer_eps(facts), "n_layer": facts.layers}
    return {**values, **more, "n_head": values["num_attention_heads"], "tie_word_embeddings": True}


def _falcon(facts: ModelFacts, factors: RopeFactors) -> Values:
    values = base(facts, factors)
    groups = values["num_key_value_heads"]
    del values["head_dim"]  # transformers derives it
    return {
        **values,
        "new_decoder_architecture": groups not in (1, values["num_attention_heads"]),
        "num_ln_in_parallel_attn": 2 if facts.has("attn_norm_2.weight") else 1,
        "multi_query": groups == 1,
        "num_kv_heads": groups,
        "parallel_attn": True,
        "alibi": False,
        "bias": facts.has("attn_qkv.bias"),
        "ffn_hidden_size": facts.rows("ffn_up.weight"),
        "layer_norm_epsilon": layer_eps(facts),
    }


def _gpt_neox(facts: ModelFacts, factors: RopeFactors) -> Values:
    more = {
        "use_parallel_residual": bool(facts.get("use_parallel_residual", True)),
        "layer_norm_eps": layer_eps(facts),
        "attention_bias": facts.has("attn_qkv.bias"),
    }
    return {**base(facts, factors), **more}


def _mpt(facts: ModelFacts, _: RopeFactors) -> Values:
    alibi = facts.get("attention.max_alibi_bias", 0.0)
    if not alibi or alibi != int(alibi):
        raise GGUFError(f"says mpt.attention.max_alibi_bias {alibi}, which is not served")
    clip = facts.get("attention.clamp_kqv", 0.0)
    facts.metadata = {
        key: value
        for key, value in facts.metadata.items()
        if not key.endswith((".max_alibi_bias", ".clamp_kqv"))
    }
    values = plain(facts)
    return {
        "vocab_size": values["vocab_size"],
        "d_model": values["hidden_size"],
        "n_heads": values["num_attention_heads"],
        "n_layers": facts.layers,
        "max_seq_len": values["max_position_embeddings"],
        "expansion_ratio": facts.rows("ffn_up.weight") // values["hidden_size"],
        "layer_norm_epsilon": layer_eps(facts),
        "attn_config": {"alibi": True, "alibi_bias_max": int(alibi), "clip_qkv": clip or None},
        "tie_word_embeddings": values["tie_word_embeddings"],
    }


def _joined(facts: ModelFacts) -> Order:
    """Return the order of queries, keys and values of each head, which llama.cpp has apart."""
    heads = facts.same("attention.head_count")
    size = facts.need("embedding_length") // heads
    return ["grouped", heads, size, size, size]


def _joined_groups(facts: ModelFacts) -> Order:
    """Return the same where several heads of queries have one of keys."""
    heads = facts.same("attention.head_count")
    size = facts.need("embedding_length") // heads
    groups = facts.same("attention.head_count_kv", heads)
    return ["grouped", groups, heads // groups * size, size, size]


_CONV1D: dict[str, Any] = {"transposed": True}
_GPT2: Names = {
    "attn_norm": "ln_1",
    "attn_qkv.weight": Target("attn.c_attn.weight", **_CONV1D),
    "attn_qkv.bias": "attn.c_attn.bias",
    "attn_output.weight": Target("attn.c_proj.weight", **_CONV1D),
    "attn_output.bias": "attn.c_proj.bias",
    "ffn_norm": "ln_2",
    "ffn_up.weight": Target("mlp.c_fc.weight", **_CONV1D),
    "ffn_up.bias": "mlp.c_fc.bias",
    "ffn_down.weight": Target("mlp.c_proj.weight", **_CONV1D),
    "ffn_down.bias": "mlp.c_proj.bias",
}
_GPT2_OUTER: Names = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}


def _attention(order: Any) -> Names:
    return {
        "attn_qkv": Target("self_attention.query_key_value", rows=order),
        "attn_output": "self_attention.dense",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }


_WORDS: Names = {
    "token_embd": "transformer.word_embeddings",
    "token_embd_norm": "transformer.word_embeddings_layernorm",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_NEOX: Names = {
    **_attention(_joined),
    "attn_qkv": Target("attention.query_key_value", rows=_joined),
}
_NEOX_LAYER: Names = {**_NEOX, "attn_output": "attention.dense"}
_NEOX_OUTER: Names = {
    "token_embd": "gpt_neox.embed_in",
    "output_norm": "gpt_neox.final_layer_norm",
    "output": "lm_head",
}
_MPT: Names = {
    "attn_norm": "norm_1",
    "attn_qkv": "attn.Wqkv",
    "attn_output": "attn.out_proj",
    "ffn_norm": "norm_2",
    "ffn_up": "ffn.up_proj",
    "ffn_down": "ffn.down_proj",
}
_MPT_OUTER: Names = {**_GPT2_OUTER, "output_norm": "transformer.norm_f"}
_H = "transformer.h.{}."
FALCON_40B: Names = {
    **_attention(_joined_groups),
    "attn_norm": "ln_mlp",
    "attn_norm_2": "ln_attn",
}
OLDER = {
    "gpt2": Architecture("gpt2", _gpt2, _GPT2, _GPT2_OUTER, _H),
    "bloom": Architecture("bloom", _bloom, _attention(_joined), _WORDS, _H),
    "falcon": Architecture("falcon", _falcon, _attention(_joined_groups), _WORDS, _H),
    "gptneox": Architecture("gpt_neox", _gpt_neox, _NEOX_LAYER, _NEOX_OUTER, "gpt_neox.layers.{}."),
    "mpt": Architecture("mpt", _mpt, _MPT, _MPT_OUTER, "transformer.blocks.{}."),
}
