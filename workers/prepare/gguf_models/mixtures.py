"""Architectures with experts, whose layers attend by rotary embeddings."""

from typing import Any

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_models.dense import granite_scales
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.parts import (
    ATTENTION,
    CORRECTION,
    LAYER,
    OUTER,
    PAIRED,
    expert_names,
    shared_names,
)
from headrace.workers.prepare.gguf_models.rope import RopeFactors
from headrace.workers.prepare.gguf_models.targets import Architecture, Names, Target
from headrace.workers.prepare.gguf_models.values import (
    Values,
    base,
    experts,
    has_shared,
    is_sigmoid,
    refuse,
    routed_experts,
    window,
)

_FULL_ROPE = {"expert_weights_scale": (0.0, 1.0)}


def _mixtral(facts: ModelFacts, factors: RopeFactors) -> Values:
    return {**base(facts, factors), **_counted(facts, "num_local_experts"), "sliding_window": None}


def _counted(facts: ModelFacts, count: str) -> Values:
    """Return the numbers of experts, whose width transformers calls that of layers."""
    return experts(facts, count, "intermediate_size")


def _qwen2moe(facts: ModelFacts, factors: RopeFactors) -> Values:
    refuse(facts, {**_FULL_ROPE, "expert_weights_norm": (False,)})
    return {**_qwen_experts(facts, factors), "norm_topk_prob": False, **_shared_width(facts)}


def _shared_width(facts: ModelFacts) -> Values:
    return {"shared_expert_intermediate_size": facts.tensor("ffn_down_shexp.weight").shape[1]}


def _qwen3moe(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return the values of Qwen 3's, whose weights llama.cpp always takes for normalized."""
    refuse(facts, {**_FULL_ROPE, "expert_weights_norm": (True,), "expert_gating_func": (0, 1)})
    facts.get("n_deepstack_layers")
    return {**_qwen_experts(facts, factors), "norm_topk_prob": True}


def _qwen_experts(facts: ModelFacts, factors: RopeFactors) -> Values:
    dense = [n for n, found in enumerate(facts.layers_with("ffn_gate_inp.weight")) if not found]
    more = {"decoder_sparse_step": 1, "mlp_only_layers": dense, "use_sliding_window": False}
    values = {**base(facts, factors), **experts(facts, "num_experts"), **more}
    return {**values, "qkv_bias": facts.has("attn_q.bias")}


def _olmoe(facts: ModelFacts, factors: RopeFactors) -> Values:
    more = {"norm_topk_prob": False, "clip_qkv": None}
    return {**base(facts, factors), **_counted(facts, "num_experts"), **more}


def _granitemoe(facts: ModelFacts, factors: RopeFactors) -> Values:
    values = base(facts, factors)
    values |= {**_counted(facts, "num_local_experts"), **granite_scales(facts, values["head_dim"])}
    if not has_shared(facts):
        return values
    width = facts.tensor("ffn_down_shexp.weight").shape[1]
    return {**values, "shared_intermediate_size": width, "model_type": "granitemoeshared"}


def _glm4moe(facts: ModelFacts, factors: RopeFactors) -> Values:
    _need_sigmoid(facts)
    values = {**base(facts, factors), **routed_experts(facts)}
    return {**values, "use_qk_norm": facts.has("attn_q_norm.weight")}


def _need_sigmoid(facts: ModelFacts) -> None:
    if not is_sigmoid(facts, default=True):
        raise GGUFError("chooses experts by softmax, which its architecture does not")


def _dots1(facts: ModelFacts, factors: RopeFactors) -> Values:
    _need_sigmoid(facts)
    return {**base(facts, factors), **routed_experts(facts), "sliding_window": None}


def _ernie_moe(facts: ModelFacts, factors: RopeFactors) -> Values:
    found = routed_experts(facts)
    return {
        **base(facts, factors),
        "use_bias": facts.has("attn_q.bias"),
        "moe_num_experts": found["n_routed_experts"],
        "moe_k": found["num_experts_per_tok"],
        "moe_intermediate_size": found["moe_intermediate_size"],
        "moe_num_shared_experts": found["n_shared_experts"],
        "moe_layer_start_index": found["first_k_dense_replace"],
        "moe_layer_interval": 1,
        "moe_layer_end_index": facts.layers - 1,
    }


def _hunyuan_moe(facts: ModelFacts, factors: RopeFactors) -> Values:
    found = experts(facts, "num_experts", "intermediate_size")
    used = found.pop("num_experts_per_tok")
    return {**base(facts, factors), **found, "moe_topk": [used] * facts.layers}


def _minimax(facts: ModelFacts, factors: RopeFactors) -> Values:
    _need_sigmoid(facts)
    values = {**base(facts, factors), **_counted(facts, "num_local_experts")}
    return {**values, "rotary_dim": facts.get("rope.dimension_count", values["head_dim"])}


def _gpt_oss(facts: ModelFacts, factors: RopeFactors) -> Values:
    values = {**base(facts, factors), **_counted(facts, "num_local_experts")}
    rope = values["rope_parameters"]
    if rope["rope_type"] == "yarn":
        rope["truncate"] = False
    return {**values, **window(facts, 2)}


def _afmoe(facts: ModelFacts, factors: RopeFactors) -> Values:
    _need_sigmoid(facts)
    found = routed_experts(facts)
    more = {
        "num_experts": found["n_routed_experts"],
        "num_dense_layers": found["first_k_dense_replace"],
        "num_shared_experts": found["n_shared_experts"],
        "route_norm": bool(facts.get("expert_weights_norm", False)),
        "route_scale": found["routed_scaling_factor"],
        "mup_enabled": True,
    }
    return {**base(facts, factors), **found, **more, **window(facts, 4)}


def _llama4(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return the values of Llama 4; llama.cpp's are those of all published ones."""
    found = experts(facts, "num_local_experts", "intermediate_size")
    values = {**base(facts, factors), "intermediate_size_mlp": facts.same("feed_forward_length")}
    sparse = [n for n, has in enumerate(facts.layers_with("ffn_gate_inp.weight")) if has]
    chunked = facts.get("attention.sliding_window", 1) != 0
    refuse(facts, {"attention.sliding_window_pattern": (4,)})
    kinds = [chunked and (layer + 1) % 4 != 0 for layer in range(facts.layers)]
    return {
        **values,
        **found,
        "moe_layers": sparse,
        "interleave_moe_layer_step": facts.get("interleave_moe_layer_step", 1),
        "attention_chunk_size": 8192,
        "layer_types": ["chunked_attention" if each else "full_attention" for each in kinds],
        "no_rope_layers": [int(each or not chunked) for each in kinds],
        "attn_temperature_tuning": chunked,
        "floor_scale": 8192,
        "attn_scale": 0.1,
        "use_qk_norm": facts.layers != 48 or facts.need("expert_count") != 128,
    }


_SPARSE: Names = {**LAYER, **expert_names()}
_ROUTED: Names = {**_SPARSE, **CORRECTION, **shared_names("mlp.shared_experts")}
_QWEN: Names = {
    **_SPARSE,
    **shared_names("mlp.shared_expert"),
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
}
_BLOCK = "block_sparse_moe"


def granite_experts() -> Names:
    """Return the names of Granite's experts, whose shared ones have gates joined to partners."""
    return {
        **expert_names(_BLOCK, f"{_BLOCK}.router"),
        "ffn_gate_shexp": Target("shared_mlp.input_linear"),
        "ffn_up_shexp": Target("shared_mlp.input_linear", position=1),
        "ffn_down_shexp": "shared_mlp.output_linear",
    }


_HUNYUAN: Names = {
    **LAYER,
    **expert_names("mlp", "mlp.gate.wg"),
    **shared_names("mlp.shared_mlp"),
    "attn_q_norm": "self_attn.query_layernorm",
    "attn_k_norm": "self_attn.key_layernorm",
}
_ERNIE: Names = {
    **_ROUTED,
    "exp_probs_b.bias": "mlp.gate.moe_statics.e_score_correction_bias",
    "exp_probs_b": "mlp.gate.moe_statics.e_score_correction_bias",
}
_FORWARD = "feed_forward"
_LLAMA4: Names = {
    **ATTENTION,
    **expert_names(_FORWARD, f"{_FORWARD}.router", transposed=True),
    **shared_names(f"{_FORWARD}.shared_expert"),
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": f"{_FORWARD}.gate_proj",
    "ffn_up": f"{_FORWARD}.up_proj",
    "ffn_down": f"{_FORWARD}.down_proj",
}
_TURNED: dict[str, Any] = {"transposed": True, "interleaved": True}
_GPT_OSS: Names = {
    **ATTENTION,
    **expert_names("mlp", "mlp.router", **_TURNED),
    "ffn_gate_exps.bias": Target("mlp.experts.gate_up_proj_bias", part="gate", **_TURNED),
    "ffn_up_exps.bias": Target("mlp.experts.gate_up_proj_bias", part="up", **_TURNED),
    "ffn_down_exps.bias": Target("mlp.experts.down_proj_bias", part="down", **_TURNED),
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_sinks.weight": "self_attn.sinks",
    "attn_sinks": "self_attn.sinks",
}
_AFMOE: Names = {
    **_ROUTED,
    "ffn_gate_inp": "mlp.router.gate",
    "exp_probs_b.bias": "mlp.expert_bias",
    "attn_gate": "self_attn.gate_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_mlp_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}
_MINIMAX: Names = {**_SPARSE, "exp_probs_b.bias": "mlp.e_score_correction_bias"}
_GLM: Names = {**_ROUTED, "post_attention_norm": "post_attention_layernorm"}


def _kind(model_type: str, config: Any, layer: Names, **options: Any) -> Architecture:
    return Architecture(model_type, config, layer, OUTER, **options)


MIXTRAL = _kind("mixtral", _mixtral, {**PAIRED, **expert_names()})
MIXTURES = {
    "qwen2moe": _kind("qwen2_moe", _qwen2moe, _QWEN),
    "qwen3moe": _kind("qwen3_moe", _qwen3moe, _SPARSE),
    "qwen3vlmoe": _kind("qwen3_moe", _qwen3moe, _SPARSE),
    "olmoe": _kind("olmoe", _olmoe, _SPARSE),
    "granitemoe": _kind("granitemoe", _granitemoe, {**PAIRED, **granite_experts()}),
    "glm4moe": _kind("glm4_moe", _glm4moe, _GLM),
    "dots1": _kind("dots1", _dots1, _ROUTED),
    "ernie4_5-moe": _kind("ernie4_5_moe", _ernie_moe, _ERNIE),
    "hunyuan-moe": _kind("hunyuan_v1_moe", _hunyuan_moe, _HUNYUAN),
    "minimax-m2": _kind("minimax_m2", _minimax, _MINIMAX),
    "gpt-oss": _kind("gpt_oss", _gpt_oss, _GPT_OSS),
    "llama4": _kind("llama4_text", _llama4, _LLAMA4),
    "afmoe": _kind("afmoe", _afmoe, _AFMOE),
}
