"""Architectures whose layers, or some of them, keep a state: Mamba, gated delta, convolutions.

llama.cpp stores the negative rates of decay, of which models have the logarithms.
"""

from typing import Any

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_models.dense import granite_scales
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.mixtures import granite_experts
from headrace.workers.prepare.gguf_models.parts import (
    ATTENTION,
    LAYER,
    OUTER,
    PAIRED,
    expert_names,
    shared_names,
)
from headrace.workers.prepare.gguf_models.rope import RopeFactors
from headrace.workers.prepare.gguf_models.targets import Architecture, Names, Order, Target
from headrace.workers.prepare.gguf_models.values import (
    Values,
    base,
    dense_layers,
    experts,
    has_shared,
    is_sigmoid,
    plain,
    grouping,
    token_ids,
)

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


def _mamba(facts: ModelFacts, _: RopeFactors) -> Values:
    if facts.get("ssm.dt_b_c_rms"):
        raise GGUFError("normalizes its steps, which is not read")
    return {
        **_stateful(facts),
        "state_size": facts.need("ssm.state_size"),
        "intermediate_size": facts.need("ssm.inner_size"),
        "expand": facts.need("ssm.inner_size") // facts.need("embedding_length"),
        "time_step_rank": facts.need("ssm.time_step_rank"),
    }


def _stateful(facts: ModelFacts) -> Values:
    """Return what models without attention have."""
    for key in ("attention.head_count", "feed_forward_length"):
        facts.get(key)
    return {
        "vocab_size": facts.rows("token_embd.weight"),
        "hidden_size": facts.need("embedding_length"),
        "num_hidden_layers": facts.layers,
        "max_position_embeddings": facts.need("context_length"),
        "layer_norm_epsilon": facts.need("attention.layer_norm_rms_epsilon"),
        "conv_kernel": facts.need("ssm.conv_kernel"),
        "use_conv_bias": facts.has("ssm_conv1d.bias"),
        "use_bias": facts.has("ssm_in.bias"),
        "tie_word_embeddings": not facts.has("output.weight"),
        **token_ids(facts),
    }


def _mamba2(facts: ModelFacts, _: RopeFactors) -> Values:
    inner, heads = facts.need("ssm.inner_size"), facts.need("ssm.time_step_rank")
    return {
        **_stateful(facts),
        "state_size": facts.need("ssm.state_size"),
        "num_heads": heads,
        "head_dim": inner // heads,
        "n_groups": facts.need("ssm.group_count"),
        "expand": inner // facts.need("embedding_length"),
    }


def _mixers(facts: ModelFacts) -> Values:
    """Return the sizes of Mamba 2's mixers beside attention."""
    inner, heads = facts.need("ssm.inner_size"), facts.need("ssm.time_step_rank")
    return {
        "mamba_n_heads": heads,
        "mamba_d_head": inner // heads,
        "mamba_n_groups": facts.need("ssm.group_count"),
        "mamba_d_state": facts.need("ssm.state_size"),
        "mamba_d_conv": facts.need("ssm.conv_kernel"),
        "mamba_expand": max(1, inner // facts.need("embedding_length")),
        "mamba_conv_bias": facts.has("ssm_conv1d.bias"),
        "mamba_proj_bias": facts.has("ssm_in.bias"),
    }


def _granite_hybrid(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return the values of Granite 4; one without factors of its own is a Bamba."""
    attends = facts.layers_with(_ATTENDS)
    kinds = ["attention" if each else "mamba" for each in attends]
    values = {**base(_with_keys(facts), factors), **_mixers(facts)}
    if facts.get("logit_scale") is None:
        places = [n for n, each in enumerate(attends) if each]
        return {**values, "attn_layer_indices": places, "model_type": "bamba"}
    rotates = facts.get("rope.scaling.finetuned", False)
    if facts.has("ffn_down_exps.weight"):
        values |= experts(facts, "num_local_experts", "intermediate_size")
        shared = facts.tensor("ffn_down_shexp.weight").shape[1] if has_shared(facts) else 0
    else:
        facts.get("expert_used_count")
        values |= {"num_local_experts": 0, "num_experts_per_tok": 0}
        shared = facts.tensor("ffn_down.weight").shape[1]
    return {
        **values,
        **granite_scales(facts, values["head_dim"]),
        "shared_intermediate_size": shared,
        "layers_block_type": kinds,
        "layer_types": kinds,
        "position_embedding_type": "rope" if rotates else "nope",
    }


def _with_keys(facts: ModelFacts) -> ModelFacts:
    """Return the facts with the number of key heads that tensors have, if they say none."""
    key = f"{facts.architecture}.attention.head_count_kv"
    counts = facts.metadata.get(key)
    if isinstance(counts, tuple) and not any(counts) and facts.has("attn_k.weight"):
        size = facts.need("embedding_length") // facts.same("attention.head_count")
        size = facts.get("attention.key_length") or size
        facts.metadata = {**facts.metadata, key: facts.rows("attn_k.weight") // size}
    return facts


def _falcon_h1(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return the values of Falcon-H1, whose factors llama.cpp's converter has multiplied in."""
    ones = (
        "attention_in", "attention_out", "ssm_in", "ssm_out", "key", "embedding", "lm_head",
    )  # fmt: skip
    return {
        **base(facts, factors),
        **_mixers(facts),
        "mamba_d_ssm": facts.need("ssm.inner_size"),
        "mamba_rms_norm": facts.has("ssm_norm.weight"),
        **{f"{name}_multiplier": 1.0 for name in ones},
        "mlp_multipliers": [1.0, 1.0],
        "ssm_multipliers": [1.0] * 5,
    }


def _nemotron_h(facts: ModelFacts, _: RopeFactors) -> Values:
    """Return the values of Nemotron-H, each of whose layers has one part only."""
    if facts.get("moe_latent_size"):
        raise GGUFError("says moe_latent_size, which is not served")
    width = max(facts.each("feed_forward_length", 0))
    inner, heads = facts.need("ssm.inner_size"), facts.need("ssm.time_step_rank")
    kinds = [
        "mamba" if mixes else "attention" if attends else "moe" if chooses else "mlp"
        for mixes, attends, chooses in zip(
            facts.layers_with("ssm_in.weight"),
            facts.layers_with(_ATTENDS),
            facts.layers_with("ffn_gate_inp.weight"),
            strict=True,
        )
    ]
    eps = facts.get("attention.layer_norm_epsilon", facts.get("attention.layer_norm_rms_epsilon"))
    values = plain(_with_keys(facts)) | {"layer_norm_epsilon": eps, "layers_block_type": kinds}
    facts.get("rope.dimension_count")
    size = facts.get("attention.key_length")
    if facts.has("ffn_down.weight"):
        width = facts.tensor("ffn_down.weight").shape[1]
    more = _experts_of_layers(facts) if "moe" in kinds else {}
    return {
        **values,
        **more,
        "intermediate_size": width,
        "head_dim": size or values["hidden_size"] // values["num_attention_heads"],
        "mamba_num_heads": heads,
        "mamba_head_dim": inner // heads,
        "n_groups": facts.need("ssm.group_count"),
        "ssm_state_size": facts.need("ssm.state_size"),
        "conv_kernel": facts.need("ssm.conv_kernel"),
        "use_conv_bias": facts.has("ssm_conv1d.bias"),
        "expand": inner // values["hidden_size"],
    }


def _experts_of_layers(facts: ModelFacts) -> Values:
    return {
        **experts(facts, "n_routed_experts"),
        **grouping(facts),
        "moe_shared_expert_intermediate_size": facts.tensor("ffn_down_shexp.weight").shape[1],
        "n_shared_experts": 1,
    }


def _jamba(facts: ModelFacts, _: RopeFactors) -> Values:
    attends = facts.layers_with(_ATTENDS)
    sparse = facts.layers_with("ffn_gate_inp.weight")
    more = experts(facts, "num_experts", "intermediate_size") if any(sparse) else {"num_experts": 1}
    offset, period = _period(attends)
    expert_offset, expert_period = _period(sparse)
    return {
        **plain(_with_keys(facts)),
        **more,
        "attn_layer_offset": offset,
        "attn_layer_period": period,
        "expert_layer_offset": expert_offset,
        "expert_layer_period": expert_period,
        "mamba_d_state": facts.need("ssm.state_size"),
        "mamba_d_conv": facts.need("ssm.conv_kernel"),
        "mamba_expand": facts.need("ssm.inner_size") // facts.need("embedding_length"),
        "mamba_dt_rank": facts.need("ssm.time_step_rank"),
        "mamba_conv_bias": facts.has("ssm_conv1d.bias"),
        "use_mamba_kernels": False,
    }


def _period(layers: list[bool]) -> tuple[int, int]:
    """Return the first of layers and the step to the next. Raises GGUFError if steps differ."""
    places = [n for n, each in enumerate(layers) if each]
    if not places:
        return 0, len(layers) + 1
    period = places[1] - places[0] if len(places) > 1 else len(layers)
    if [n % period == places[0] for n in range(len(layers))] != layers or places[0] >= period:
        raise GGUFError("has layers of several kinds that do not take turns")
    return places[0], period


def _lfm2(facts: ModelFacts, factors: RopeFactors) -> Values:
    attends = facts.layers_with(_ATTENDS)
    values = {
        **base(facts, factors),
        "norm_eps": facts.need("attention.layer_norm_rms_epsilon"),
        "conv_L_cache": facts.need("shortconv.l_cache"),
        "layer_types": ["full_attention" if each else "conv" for each in attends],
        "conv_bias": facts.has("shortconv.in_proj.bias"),
        "block_auto_adjust_ff_dim": False,
    }
    if facts.get("attention.sliding_window"):
        raise GGUFError("has lfm2's sliding window, which is not served")
    if facts.architecture != "lfm2moe":
        return values
    if not is_sigmoid(facts, default=True):
        raise GGUFError("chooses experts by softmax, which its architecture does not")
    more = {"num_dense_layers": dense_layers(facts), "use_expert_bias": True}
    return {**values, **experts(facts, "num_experts"), **more, "norm_topk_prob": True}


_DECAY = {"log_negated": True}


def _mixer(name: str) -> Names:
    """Return the names of Mamba's parts below a module."""
    return {
        "ssm_a": Target(f"{name}.A_log", **_DECAY),
        "ssm_d": f"{name}.D",
        "ssm_conv1d": f"{name}.conv1d",
        "ssm_in": f"{name}.in_proj",
        "ssm_out": f"{name}.out_proj",
        "ssm_x": f"{name}.x_proj",
        "ssm_norm": f"{name}.norm",
    }


def _mamba2_names(name: str) -> Names:
    return {**_mixer(name), "ssm_dt.bias": f"{name}.dt_bias"}


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
    "ssm_a": Target(f"{_LINEAR}.A_log", **_DECAY),
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
_BACKBONE: Names = {
    "token_embd": "backbone.embeddings",
    "output_norm": "backbone.norm_f",
    "output": "lm_head",
}
_MAMBA: Names = {**_mixer("mixer"), "ssm_dt": "mixer.dt_proj", "attn_norm": "norm"}
_MAMBA2: Names = {**_mamba2_names("mixer"), "attn_norm": "norm"}
_GRANITE: Names = {**PAIRED, **granite_experts(), **_mamba2_names("mamba")}
GRANITE_DENSE: Names = {
    **_GRANITE,
    "ffn_gate": Target("shared_mlp.input_linear"),
    "ffn_up": Target("shared_mlp.input_linear", position=1),
    "ffn_down": "shared_mlp.output_linear",
}
_FEED: Names = {
    **ATTENTION,
    "ffn_norm": "pre_ff_layernorm",
    "ffn_gate": "feed_forward.gate_proj",
    "ffn_up": "feed_forward.up_proj",
    "ffn_down": "feed_forward.down_proj",
}
BAMBA: Names = {**PAIRED, **{key: _FEED[key] for key in _FEED if key[:3] == "ffn"}}
BAMBA_LAYER: Names = {**BAMBA, **_mamba2_names("mamba")}
_FALCON: Names = {**_FEED, **_mamba2_names("mamba")}
_FALCON_H1: Names = {
    **_FALCON,
    "ffn_norm": "pre_ff_layernorm.weight",  # so it is called in files
    "ffn_norm.weight": "pre_ff_layernorm.weight",
}
_JAMBA: Names = {
    **_FEED,
    **_mixer("mamba"),
    **expert_names("feed_forward", "feed_forward.router"),
    "ssm_dt": "mamba.dt_proj",
    "ssm_dt_norm": "mamba.dt_layernorm",
    "ssm_b_norm": "mamba.b_layernorm",
    "ssm_c_norm": "mamba.c_layernorm",
}
_FINAL: Names = {**OUTER, "output_norm": "model.final_layernorm"}
_NEMOTRON: Names = {
    **_MAMBA2,
    **{f"attn_{key}": f"mixer.{key}_proj" for key in "qkv"},
    **expert_names("mixer", "mixer.gate"),
    "attn_output": "mixer.o_proj",
    "ffn_up": "mixer.up_proj",
    "ffn_down": "mixer.down_proj",
    "ffn_up_exps.weight": Target("mixer.experts.up_proj", part="down"),
    "ffn_up_shexp": "mixer.shared_experts.up_proj",
    "ffn_down_shexp": "mixer.shared_experts.down_proj",
    "exp_probs_b.bias": "mixer.gate.e_score_correction_bias",
}
_NEMOTRON_OUTER: Names = {
    "token_embd": "model.embeddings",
    "output_norm": "model.norm_f",
    "output": "lm_head",
}
_LFM2: Names = {
    "attn_norm": "operator_norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}
_LFM2_OUTER: Names = {
    "token_embd": "model.embed_tokens",
    "token_embd_norm": "model.embedding_norm",
    "output_norm": "model.embedding_norm",
    "output": "lm_head",
}
_LFM2_MOE: Names = {
    **_LFM2,
    **expert_names("feed_forward", "feed_forward.gate"),
    "exp_probs_b.bias": "feed_forward.expert_bias",
}
_B = "backbone.layers.{}."
_DELTAS: dict[str, Any] = {"norm_offset": 1.0, "norms_kept": ("ssm_norm.weight",)}
RECURRENT = {
    "qwen3next": Architecture("qwen3_next", _delta, _NEXT, OUTER, **_DELTAS),
    "qwen35": Architecture("qwen3_5_text", _delta, _35, OUTER, **_DELTAS),
    "qwen35moe": Architecture("qwen3_5_moe_text", _delta, _35, OUTER, **_DELTAS),
    "mamba": Architecture("mamba", _mamba, _MAMBA, _BACKBONE, _B),
    "mamba2": Architecture("mamba2", _mamba2, _MAMBA2, _BACKBONE, _B),
    "granitehybrid": Architecture("granitemoehybrid", _granite_hybrid, _GRANITE, OUTER),
    "falcon-h1": Architecture("falcon_h1", _falcon_h1, _FALCON_H1, _FINAL),
    "jamba": Architecture("jamba", _jamba, _JAMBA, _FINAL),
    "nemotron_h": Architecture("nemotron_h", _nemotron_h, _NEMOTRON, _NEMOTRON_OUTER),
    "nemotron_h_moe": Architecture("nemotron_h", _nemotron_h, _NEMOTRON, _NEMOTRON_OUTER),
    "lfm2": Architecture("lfm2", _lfm2, _LFM2, _LFM2_OUTER),
    "lfm2moe": Architecture("lfm2_moe", _lfm2, _LFM2_MOE, _LFM2_OUTER),
}
