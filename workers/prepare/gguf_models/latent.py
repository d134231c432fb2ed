"""DeepSeek's architecture: keys and values are made of a small vector, experts of groups."""

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.parts import (
    CORRECTION,
    LAYER,
    OUTER,
    expert_names,
    shared_names,
)
from headrace.workers.prepare.gguf_models.rope import RopeFactors, rope_parameters
from headrace.workers.prepare.gguf_models.targets import Architecture, Names, Target
from headrace.workers.prepare.gguf_models.values import Values, is_sigmoid, plain, routed_experts

_LOG = "rope.scaling.yarn_log_multiplier"


def _deepseek(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return the values of DeepSeek V3, or of V2, which chooses experts by softmax."""
    if facts.get("attention.temperature_scale"):
        raise GGUFError("says attention.temperature_scale, which is not served with DeepSeek's")
    sizes = _sizes(facts)
    heads = facts.same("attention.head_count")
    corrected = facts.has("exp_probs_b.bias") or facts.has("exp_probs_b")
    is_v3 = is_sigmoid(facts, default=corrected or not facts.get("expert_count"))
    values = {
        **plain(facts),
        **(routed_experts(facts) if facts.get("expert_count") else _dense(facts)),
        **sizes,
        "num_key_value_heads": heads,
        "rope_parameters": _rope(facts, factors, sizes["qk_rope_head_dim"]),
        "model_type": "deepseek_v3" if is_v3 else "deepseek_v2",
    }
    if not is_v3:
        grouped = values["n_group"] > 1
        values["topk_method"] = "group_limited_greedy" if grouped else "greedy"
    return values


def _dense(facts: ModelFacts) -> Values:
    """Return what makes no layer have experts."""
    for key in ("leading_dense_block_count", "expert_feed_forward_length", "expert_used_count"):
        facts.get(key)
    return {"first_k_dense_replace": facts.layers}


def _sizes(facts: ModelFacts) -> Values:
    """Return the sizes of heads; older files have them with other keys."""
    keys = facts.get("attention.key_length_mla", facts.get("attention.key_length"))
    values = facts.get("attention.value_length_mla", facts.get("attention.value_length"))
    rotated = facts.need("rope.dimension_count")
    return {
        "q_lora_rank": facts.get("attention.q_lora_rank") if facts.has("attn_q_a.weight") else None,
        "kv_lora_rank": facts.need("attention.kv_lora_rank"),
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": keys - rotated,
        "v_head_dim": values,
    }


def _rope(facts: ModelFacts, factors: RopeFactors, rotated: int) -> Values:
    """Return rope_parameters, of which DeepSeek's yarn scales scores by itself."""
    found = rope_parameters(facts, factors, rotated)
    if found["rope_type"] != "yarn":
        return found
    everywhere = facts.get(_LOG, 0.0) / 0.1  # llama.cpp writes a tenth of it
    del found["attention_factor"]
    if everywhere:
        found["mscale_all_dim"] = round(everywhere, 6)
        found["mscale"] = 1.0 if abs(everywhere - 1) < 1e-6 else found["mscale_all_dim"]
    return found


LATENT: Names = {
    **LAYER,
    **expert_names(),
    **CORRECTION,
    **shared_names("mlp.shared_experts"),
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_k_b.weight": Target("self_attn.kv_b_proj.weight", part="latent_keys"),
    "attn_v_b.weight": Target("self_attn.kv_b_proj.weight", part="latent_values"),
}
LATENTS = {"deepseek2": Architecture("deepseek_v3", _deepseek, LATENT, OUTER)}
