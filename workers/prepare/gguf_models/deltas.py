"""Qwen's architectures with gated delta rules: Qwen3-Next and Qwen3.5.

llama.cpp stores the negative rates of decay, of which models have the logarithms.
"""

from typing import Any

from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.parts import LAYER, OUTER, expert_names, shared_names
from headrace.workers.prepare.gguf_models.rope import RopeFactors
from headrace.workers.prepare.gguf_models.targets import Architecture, Names, Order, Target
from headrace.workers.prepare.gguf_models.values import Values, base, experts

_ATTENDS = "attn_q.weight"


def _delta(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return the values of Qwen3-Next and Qwen3.5, whose attention has a gate."""
    groups, members, size = _delta_heads(facts)
    attends = facts.layers_with(_ATTENDS)
    values = {
        **base(facts, factors),
        "linear_conv_kernel_dim": facts.need("ssm.conv_kernel"),
        "linear_num_key_heads": groups,
        "linear_num_value_heads": groups * members,
        "linear_key_head_dim": facts.need("ssm.state_size"),
        "linear_value_head_dim": size,
        "layer_types": ["full_attention" if each else "linear_attention" for each in attends],
    }
    if not facts.has("ffn_down_exps.weight"):
        return values
    shared = facts.tensor("ffn_down_shexp.weight").shape[1]
    more = {"shared_expert_intermediate_size": shared, "norm_topk_prob": True}
    return {**values, **experts(facts, "num_experts"), **more, "decoder_sparse_step": 1}


def _delta_heads(facts: ModelFacts) -> tuple[int, int, int]:
    """Return the numbers of key heads, and of value heads for each, and the size of those."""
    groups, heads = facts.need("ssm.group_count"), facts.need("ssm.time_step_rank")
    return groups, heads // groups, facts.need("ssm.inner_size") // heads


def _joined_delta(facts: ModelFacts) -> Order:
    """Return the order of each key head's queries, keys, values and gates."""
    groups, members, size = _delta_heads(facts)
    keys = facts.need("ssm.state_size")
    return ["grouped", groups, keys, keys, members * size, members * size]


def _tiled(of_heads: bool = False, after_keys: bool = False) -> Any:
    """Return the order of value heads: in the file, those of all key heads take turns."""

    def order(facts: ModelFacts) -> Order | None:
        groups, members, size = _delta_heads(facts)
        first = 2 * groups * facts.need("ssm.state_size") if after_keys else 0
        return None if members == 1 else ["tiled", first, groups, members, 1 if of_heads else size]

    return order


_SHARED_QWEN: Names = {
    **expert_names(),
    **shared_names("mlp.shared_expert"),
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
}
_LINEAR = "linear_attn"
_DELTA: Names = {
    **LAYER,
    **_SHARED_QWEN,
    "post_attention_norm": "post_attention_layernorm",
    "ssm_norm": f"{_LINEAR}.norm",
}
_NEXT: Names = {
    **_DELTA,
    "attn_qkv": Target(f"{_LINEAR}.in_proj_qkvz", rows=_joined_delta),
    "attn_gate": Target(f"{_LINEAR}.in_proj_qkvz", rows=_joined_delta, position=1),
    "ssm_in": f"{_LINEAR}.in_proj_qkvz",  # of older files
    "ssm_ba": f"{_LINEAR}.in_proj_ba",
    "ssm_a": Target(f"{_LINEAR}.A_log", log_negated=True),
    "ssm_dt.bias": f"{_LINEAR}.dt_bias",
    "ssm_conv1d": f"{_LINEAR}.conv1d",
    "ssm_out": f"{_LINEAR}.out_proj",
}
_35: Names = {
    **_DELTA,
    "attn_qkv": Target(f"{_LINEAR}.in_proj_qkv", rows=_tiled(after_keys=True)),
    "attn_gate": Target(f"{_LINEAR}.in_proj_z", rows=_tiled()),
    "ssm_alpha": Target(f"{_LINEAR}.in_proj_a", rows=_tiled(of_heads=True)),
    "ssm_beta": Target(f"{_LINEAR}.in_proj_b", rows=_tiled(of_heads=True)),
    "ssm_a": Target(f"{_LINEAR}.A_log", rows=_tiled(of_heads=True), log_negated=True),
    "ssm_dt.bias": Target(f"{_LINEAR}.dt_bias", rows=_tiled(of_heads=True)),
    "ssm_conv1d": Target(f"{_LINEAR}.conv1d", rows=_tiled(after_keys=True)),
    "ssm_out": Target(f"{_LINEAR}.out_proj", columns=_tiled()),
}
_DELTAS: dict[str, Any] = {"norm_offset": 1.0, "norms_kept": ("ssm_norm.weight",)}
DELTAS = {
    "qwen3next": Architecture("qwen3_next", _delta, _NEXT, OUTER, **_DELTAS),
    "qwen35": Architecture("qwen3_5_text", _delta, _35, OUTER, **_DELTAS),
    "qwen35moe": Architecture("qwen3_5_moe_text", _delta, _35, OUTER, **_DELTAS),
}
