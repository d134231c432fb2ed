"""Mamba's architectures, alone and beside attention: Granite 4, Jamba, Falcon-H1, Nemotron-H.

llama.cpp stores the negative rates of decay, of which models have the logarithms.
"""

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_models.dense import granite_scales
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.mamba_names import (
    BACKBONE,
    FALCON_H1,
    FINAL,
    GRANITE,
    JAMBA,
    MAMBA,
    MAMBA2,
    NEMOTRON,
    NEMOTRON_OUTER,
)
from headrace.workers.prepare.gguf_models.parts import OUTER
from headrace.workers.prepare.gguf_models.rope import RopeFactors
from headrace.workers.prepare.gguf_models.targets import Architecture
from headrace.workers.prepare.gguf_models.values import (
    Values,
    base,
    experts,
    grouping,
    has_shared,
    plain,
    token_ids,
)

_ATTENDS = "attn_q.weight"


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


_B = "backbone.layers.{}."
MAMBAS = {
    "mamba": Architecture("mamba", _mamba, MAMBA, BACKBONE, _B),
    "mamba2": Architecture("mamba2", _mamba2, MAMBA2, BACKBONE, _B),
    "granitehybrid": Architecture("granitemoehybrid", _granite_hybrid, GRANITE, OUTER),
    "falcon-h1": Architecture("falcon_h1", _falcon_h1, FALCON_H1, FINAL),
    "jamba": Architecture("jamba", _jamba, JAMBA, FINAL),
    "nemotron_h": Architecture("nemotron_h", _nemotron_h, NEMOTRON, NEMOTRON_OUTER),
    "nemotron_h_moe": Architecture("nemotron_h", _nemotron_h, NEMOTRON, NEMOTRON_OUTER),
}
