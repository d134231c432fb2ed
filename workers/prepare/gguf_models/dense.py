"""Architectures without experts, whose layers attend by rotary embeddings."""

from typing import Any

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.parts import ATTENTION, LAYER, OUTER, PAIRED
from headrace.workers.prepare.gguf_models.rope import RopeFactors
from headrace.workers.prepare.gguf_models.targets import Architecture, Names, Target
from headrace.workers.prepare.gguf_models.values import (
    FULL,
    Values,
    base,
    layer_eps,
    refuse,
    window,
)


def _qwen2(facts: ModelFacts, factors: RopeFactors) -> Values:
    return {**base(facts, factors), "use_sliding_window": False}


def _phi3(facts: ModelFacts, factors: RopeFactors) -> Values:
    values = base(facts, factors)
    rope = values["rope_parameters"]
    length = facts.get("rope.scaling.original_context_length", values["max_position_embeddings"])
    values |= {
        "original_max_position_embeddings": rope.get("original_max_position_embeddings", length)
    }
    return {**values, "sliding_window": facts.get("attention.sliding_window") or None}


def _granite(facts: ModelFacts, factors: RopeFactors) -> Values:
    values = base(facts, factors)
    return {**values, **granite_scales(facts, values["head_dim"])}


def granite_scales(facts: ModelFacts, head_dim: int) -> Values:
    """Return the factors by which Granite's models multiply."""
    return {
        "embedding_multiplier": facts.get("embedding_scale", 1.0) or 1.0,
        "residual_multiplier": facts.get("residual_scale", 1.0) or 1.0,
        "attention_multiplier": facts.get("attention.scale", 0.0) or head_dim**-0.5,
        "logits_scaling": facts.get("logit_scale", 1.0) or 1.0,
    }


def _minicpm(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return Granite's values, which computes the same; llama.cpp's defaults are MiniCPM's."""
    values = base(facts, factors)
    width = facts.need("embedding_length")
    return {
        **values,
        "embedding_multiplier": facts.get("embedding_scale", 12.0),
        "residual_multiplier": facts.get("residual_scale", 1.4 / facts.layers**0.5),
        "attention_multiplier": values["head_dim"] ** -0.5,
        "logits_scaling": facts.get("logit_scale", width / 256),
    }


def _smollm3(facts: ModelFacts, factors: RopeFactors) -> Values:
    rotated = [int((layer + 1) % 4 != 0) for layer in range(facts.layers)]
    types = [FULL] * facts.layers
    more = {"no_rope_layers": rotated, "no_rope_layer_interval": 4, "layer_types": types}
    return {**base(facts, factors), **more, "use_sliding_window": False, "sliding_window": None}


def _olmo(facts: ModelFacts, factors: RopeFactors) -> Values:
    clip = facts.get("attention.clamp_kqv")
    hidden = _without(facts, "attention.clamp_kqv")
    if layer_eps(facts) != facts.get("attention.layer_norm_epsilon"):
        raise GGUFError("has no attention.layer_norm_epsilon")
    return {**base(hidden, factors), "clip_qkv": clip}


def _without(facts: ModelFacts, key: str) -> ModelFacts:
    """Return the facts without a key that `base` refuses."""
    facts.metadata = {**facts.metadata}
    facts.metadata.pop(f"{facts.architecture}.{key}", None)
    return facts


def _olmo2(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return the values of Olmo 2, or of Olmo 3, which has a sliding window."""
    values = base(facts, factors)
    if not facts.get("attention.sliding_window"):
        return values
    return {**values, **window(facts, 4), "model_type": "olmo3"}


def _cohere(facts: ModelFacts, factors: RopeFactors) -> Values:
    values = base(facts, factors)
    more = {"logit_scale": facts.get("logit_scale", 1.0), "layer_norm_eps": layer_eps(facts)}
    return {**values, **more, "use_qk_norm": facts.has("attn_q_norm.weight")}


def _cohere2(facts: ModelFacts, factors: RopeFactors) -> Values:
    return {**_cohere(facts, factors), **window(facts, 4)}


def _exaone4(facts: ModelFacts, factors: RopeFactors) -> Values:
    values = window(facts, 4)
    return {**base(facts, factors), **values, "sliding_window_pattern": None}


def _seed_oss(facts: ModelFacts, factors: RopeFactors) -> Values:
    more = {"attention_out_bias": facts.has("attn_output.bias")}
    return {**base(facts, factors), **more}


def _mistral3(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return the values of Ministral 3, whose queries are scaled beyond the original context."""
    values = {**base(facts, factors), "sliding_window": None}
    beta = facts.get("attention.temperature_scale", 0.0)
    rope = {**values["rope_parameters"], "llama_4_scaling_beta": beta}
    rope.setdefault("original_max_position_embeddings", values["max_position_embeddings"])
    return {**values, "rope_parameters": rope}


def _ernie(facts: ModelFacts, factors: RopeFactors) -> Values:
    return {**base(facts, factors), "use_bias": facts.has("attn_q.bias")}


def _apertus(facts: ModelFacts, factors: RopeFactors) -> Values:
    return {**base(facts, factors), "hidden_act": "xielu"}


def _xielu(facts: ModelFacts) -> dict[str, list[float]]:
    """Return the constants of Apertus' activation in each layer."""
    defaults = {"alpha_n": 0.0, "alpha_p": 0.0, "beta": 0.5, "eps": -1e-6}
    return {
        f"mlp.act_fn.{name}": [
            float(each) for each in _of_layers(facts.metadata.get(f"xielu.{name}", value), facts)
        ]
        for name, value in defaults.items()
    }


def _of_layers(value: Any, facts: ModelFacts) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value] * facts.layers


def _nemotron(facts: ModelFacts, factors: RopeFactors) -> Values:
    return {**base(facts, factors), "norm_eps": layer_eps(facts)}


def _stablelm(facts: ModelFacts, factors: RopeFactors) -> Values:
    more = {
        "use_qkv_bias": facts.has("attn_q.bias"),
        "qk_layernorm": facts.has("attn_q_norm.weight"),
        "use_parallel_residual": not facts.has("ffn_norm.weight"),
        "layer_norm_eps": layer_eps(facts),
    }
    if more["qk_layernorm"]:
        raise GGUFError("has stablelm's norms of queries, which are not read")
    facts.get("use_parallel_residual")
    return {**base(facts, factors), **more}


def _starcoder2(facts: ModelFacts, factors: RopeFactors) -> Values:
    more = {"use_bias": facts.has("attn_q.bias"), "norm_epsilon": layer_eps(facts)}
    return {**base(facts, factors), **more, "sliding_window": None}


def _phi2(facts: ModelFacts, factors: RopeFactors) -> Values:
    return {
        **base(facts, factors),
        "intermediate_size": facts.rows("ffn_up.weight"),
        "num_key_value_heads": facts.rows("attn_k.weight") // base(facts, factors)["head_dim"],
        "layer_norm_eps": layer_eps(facts),
    }


def _vision(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return the values of the text model of one for pictures, whose layers it may feed."""
    facts.get("n_deepstack_layers")
    return _qwen2(facts, factors)


_GLM: Names = {**LAYER, "ffn_up": "mlp.gate_up_proj"}
_POST: Names = {
    **LAYER,
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_JOINED: Names = {**_GLM, "attn_qkv": "self_attn.qkv_proj"}
_HUNYUAN: Names = {
    **LAYER,
    "attn_q_norm": "self_attn.query_layernorm",
    "attn_k_norm": "self_attn.key_layernorm",
}
_PHI2: Names = {
    **ATTENTION,
    "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
_APERTUS: Names = {**LAYER, "attn_norm": "attention_layernorm", "ffn_norm": "feedforward_layernorm"}


def _kind(model_type: str, config: Any, layer: Names = LAYER, **options: Any) -> Architecture:
    return Architecture(model_type, config, layer, {**OUTER, **options.pop("outer", {})}, **options)


_SEED: Names = {**LAYER, "post_attention_norm": "post_attention_layernorm"}
_GLM4: Names = {
    **_GLM,
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}
_STARCODER2: Names = {**LAYER, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
_FINAL: Names = {"output_norm": "model.final_layernorm"}

DENSE = {
    "llama": _kind("llama", base, PAIRED),
    "internlm2": _kind("llama", base, PAIRED),
    "qwen2": _kind("qwen2", _qwen2),
    "qwen2vl": _kind("qwen2", _vision),
    "qwen3": _kind("qwen3", _qwen2),
    "qwen3vl": _kind("qwen3", _vision),
    "phi2": _kind("phi", _phi2, _PHI2, outer=_FINAL),
    "phi3": _kind("phi3", _phi3, _JOINED),
    "granite": _kind("granite", _granite, PAIRED),
    "minicpm": _kind("granite", _minicpm, PAIRED),
    "chatglm": _kind("glm", base, _GLM),
    "glm4": _kind("glm4", base, _GLM4),
    "smollm3": _kind("smollm3", _smollm3, PAIRED),
    "olmo": _kind("olmo", _olmo, PAIRED),
    "olmo2": _kind("olmo2", _olmo2, _POST),
    "command-r": _kind("cohere", _cohere),
    "cohere2": _kind("cohere2", _cohere2),
    "ernie4_5": _kind("ernie4_5", _ernie),
    "hunyuan-dense": _kind("hunyuan_v1_dense", base, _HUNYUAN),
    "exaone4": _kind("exaone4", _exaone4, _POST),
    "seed_oss": _kind("seed_oss", _seed_oss, _SEED),
    "mistral3": _kind("ministral3", _mistral3, PAIRED),
    "arcee": _kind("arcee", base, PAIRED),
    "apertus": _kind("apertus", _apertus, _APERTUS, constants=_xielu),
    "nemotron": _kind("nemotron", _nemotron, norm_offset=1.0),
    "stablelm": _kind("stablelm", _stablelm),
    "starcoder2": _kind("starcoder2", _starcoder2, _STARCODER2),
}
__all__ = ["DENSE", "Target", "granite_scales", "refuse"]
