"""Gemma's architectures: norms around a weight of one, windows, caps of logits."""

from statistics import NormalDist
from typing import Any

from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.parts import LAYER, OUTER
from headrace.workers.prepare.gguf_models.rope import RopeFactors
from headrace.workers.prepare.gguf_models.targets import Architecture, Names, Target
from headrace.workers.prepare.gguf_models.values import FULL, SLIDING, Values, base, window

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
GEMMAS = {
    "gemma": Architecture("gemma", _gemma, LAYER, OUTER, **_ONE),
    "gemma2": Architecture("gemma2", _gemma2, _POST, OUTER, **_ONE),
    "gemma3": Architecture("gemma3_text", _gemma3, _POST, OUTER, **_ONE),
    "gemma3n": Architecture("gemma3n_text", _gemma3n, _3N, _3N_OUTER),
}
