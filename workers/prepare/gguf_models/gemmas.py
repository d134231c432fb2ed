"""Gemma's architectures: norms around a weight of one, windows, caps of logits."""

from statistics import NormalDist
from typing import Any

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.parts import LAYER, OUTER, expert_names
from headrace.workers.prepare.gguf_models.rope import RopeFactors
from headrace.workers.prepare.gguf_models.targets import Architecture, Names, Target
from headrace.workers.prepare.gguf_models.values import (
    FULL,
    SLIDING,
    Values,
    base,
    experts,
    plain,
    window,
)

_LARGEST_LAYERS = {"gemma2": 46, "gemma3": 62}  # of 27B, whose scores are scaled by its width


def _gemma(facts: ModelFacts, factors: RopeFactors) -> Values:
    return {**base(facts, factors), "tie_word_embeddings": True}


def _capped(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return the values of Gemma 2 and later."""
    values = _gemma(facts, factors)
    scale = values["head_dim"]
    if facts.layers == _LARGEST_LAYERS.get(facts.architecture):
        scale = values["hidden_size"] // values["num_attention_heads"]
    cap = facts.get("final_logit_softcapping")
    return {**values, "query_pre_attn_scalar": scale, "final_logit_softcapping": cap or None}


def _gemma2(facts: ModelFacts, factors: RopeFactors) -> Values:
    caps = {
        "final_logit_softcapping": facts.get("final_logit_softcapping", 30.0),
        "attn_logit_softcapping": facts.get("attn_logit_softcapping", 50.0),
    }
    return {**_capped(facts, factors), **window(facts, 2), **caps}


def _gemma3(facts: ModelFacts, factors: RopeFactors) -> Values:
    values = {**_capped(facts, factors), **window(facts, 6)}
    return {**values, "rope_parameters": _two_ropes(facts, values["rope_parameters"])}


def _two_ropes(facts: ModelFacts, full: Values) -> Values:
    """Return rope_parameters of both kinds of layers: in windows nothing is scaled."""
    theta = float(facts.get("rope.freq_base_swa", 10000.0))
    return {FULL: full, SLIDING: {"rope_type": "default", "rope_theta": theta}}


def _gemma3n(facts: ModelFacts, factors: RopeFactors) -> Values:
    values = {**_gemma(facts, factors), **window(facts, 5)}
    scales = facts.each("activation_sparsity_scale", float("-inf"))
    return {
        **values,
        "rope_parameters": _two_ropes(facts, values["rope_parameters"]),
        "final_logit_softcapping": facts.get("final_logit_softcapping", 30.0),
        "activation_sparsity_pattern": [round(NormalDist().cdf(each), 6) for each in scales],
        "altup_active_idx": facts.get("altup.active_idx", 0),
        "altup_num_inputs": facts.get("altup.num_inputs", 4),
        "num_kv_shared_layers": facts.get("attention.shared_kv_layers", 0),
        "hidden_size_per_layer_input": facts.need("embedding_length_per_layer_input"),
        "vocab_size_per_layer_input": facts.rows("per_layer_token_embd.weight"),
        "laurel_rank": facts.rows("laurel_l.weight"),
        "intermediate_size": facts.each("feed_forward_length", 0),
    }


def _gemma4(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return the values of Gemma 4, whose layers without window have heads of another size."""
    kinds = window(facts, 6)
    size, small = facts.need("attention.key_length"), facts.need("attention.key_length_swa")
    if (facts.get("attention.value_length"), facts.get("attention.value_length_swa")) != (
        size,
        small,
    ):
        raise GGUFError("has keys and values of different sizes")
    heads = facts.each("attention.head_count_kv", facts.same("attention.head_count"))
    of_kind = {kind: heads[n] for n, kind in enumerate(kinds["layer_types"])}
    values_kept = facts.layers_with("attn_v.weight")
    shared = facts.get("attention.shared_kv_layers", 0)
    own = list(enumerate(kinds["layer_types"]))[: facts.layers - shared]
    widths = facts.each("feed_forward_length", 0)
    return {
        **plain(_one_count(facts)),
        **kinds,
        **_gemma4_experts(facts),
        "tie_word_embeddings": True,
        "intermediate_size": widths[0],
        "use_double_wide_mlp": len(set(widths)) > 1,
        "head_dim": small,
        "global_head_dim": size,
        "num_key_value_heads": of_kind.get(SLIDING, heads[0]),
        "num_global_key_value_heads": of_kind.get(FULL),
        "attention_k_eq_v": any(kind == FULL and not values_kept[n] for n, kind in own),
        "num_kv_shared_layers": shared,
        "hidden_size_per_layer_input": facts.get("embedding_length_per_layer_input", 0),
        "vocab_size_per_layer_input": _inputs(facts),
        "final_logit_softcapping": facts.get("final_logit_softcapping", 0.0) or None,
        "rope_parameters": _two_ropes(facts, _proportional(facts, factors, size)),
    }


def _one_count(facts: ModelFacts) -> ModelFacts:
    """Return the facts with the counts of the first layer, where layers differ."""
    for key in ("attention.head_count_kv", "feed_forward_length"):
        value = facts.get(key)
        if isinstance(value, tuple):
            full = f"{facts.architecture}.{key}"
            facts.metadata = {**facts.metadata, full: value[0]}
    return facts


def _inputs(facts: ModelFacts) -> int:
    """Return the number of tokens that have a vector for each layer."""
    name = "per_layer_token_embd.weight"
    return facts.rows(name if facts.has(name) else "token_embd.weight")


def _proportional(facts: ModelFacts, factors: RopeFactors, size: int) -> Values:
    """Return rope_parameters of which some pairs do not turn: their factors are huge."""
    theta = float(facts.get("rope.freq_base", 10000.0))
    found = factors.found.get("rope_freqs")
    rotated = size // 2 if found is None else int((found < _STILL).sum())
    if facts.get("rope.dimension_count", size) != size or facts.get("rope.scaling.type"):
        raise GGUFError("scales its rotary embedding, which its architecture does not")
    if found is not None and not (found[:rotated] == 1).all():
        raise GGUFError("scales its rotary embedding, which its architecture does not")
    share = 2 * rotated / size
    return {"rope_type": "proportional", "rope_theta": theta, "partial_rotary_factor": share}


def _gemma4_experts(facts: ModelFacts) -> Values:
    if not facts.get("expert_count"):
        return {"enable_moe_block": False}
    found = experts(facts, "num_experts")
    found["top_k_experts"] = found.pop("num_experts_per_tok")
    return {**found, "enable_moe_block": True}


_STILL = 1e20
_POST: Names = {
    **LAYER,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_3N: Names = {
    **_POST,
    "altup_correct_scale.weight": "altup.correct_output_scale",
    "altup_correct_coef": "altup.correction_coefs",
    "altup_predict_coef": "altup.prediction_coefs",
    "altup_router": "altup.modality_router",
    "altup_router_norm": "altup.router_norm",
    "laurel_l": "laurel.linear_left",
    "laurel_r": "laurel.linear_right",
    "laurel_post_norm": "laurel.post_laurel_norm",
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
}
_3N_OUTER: Names = {
    **OUTER,
    "altup_proj.weight": Target("model.altup_projections.{}.weight", split=True),
    "altup_unembd_proj.weight": Target("model.altup_unembed_projections.{}.weight", split=True),
    "per_layer_token_embd": "model.embed_tokens_per_layer",
    "per_layer_model_proj": "model.per_layer_model_projection",
    "per_layer_proj_norm": "model.per_layer_projection_norm",
}
_ONE: dict[str, Any] = {"norm_offset": 1.0}
_4: Names = {
    **_POST,
    **expert_names("", "router.proj"),
    "layer_output_scale.weight": "layer_scalar",
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
}
# Of layers that take the keys and values of others.
_SHARED = ("attn_k.weight", "attn_v.weight", "attn_k_norm.weight")
GEMMAS = {
    "gemma": Architecture("gemma", _gemma, LAYER, OUTER, **_ONE),
    "gemma2": Architecture("gemma2", _gemma2, _POST, OUTER, **_ONE),
    "gemma3": Architecture("gemma3_text", _gemma3, _POST, OUTER, **_ONE),
    "gemma3n": Architecture("gemma3n_text", _gemma3n, _3N, _3N_OUTER, ignored=_SHARED),
    "gemma4": Architecture("gemma4_text", _gemma4, _4, _3N_OUTER, ignored=_SHARED),
}
