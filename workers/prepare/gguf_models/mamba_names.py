"""Names of tensors of Mamba's architectures, alone and beside attention."""

from headrace.workers.prepare.gguf_models.mixtures import granite_experts
from headrace.workers.prepare.gguf_models.parts import ATTENTION, OUTER, PAIRED, expert_names
from headrace.workers.prepare.gguf_models.targets import Names, Target


def _mixer(name: str) -> Names:
    """Return the names of Mamba's parts below a module."""
    return {
        "ssm_a": Target(f"{name}.A_log", log_negated=True),
        "ssm_d": f"{name}.D",
        "ssm_conv1d": f"{name}.conv1d",
        "ssm_in": f"{name}.in_proj",
        "ssm_out": f"{name}.out_proj",
        "ssm_x": f"{name}.x_proj",
        "ssm_norm": f"{name}.norm",
    }


def _mamba2_names(name: str) -> Names:
    return {**_mixer(name), "ssm_dt.bias": f"{name}.dt_bias"}


BACKBONE: Names = {
    "token_embd": "backbone.embeddings",
    "output_norm": "backbone.norm_f",
    "output": "lm_head",
}
MAMBA: Names = {**_mixer("mixer"), "ssm_dt": "mixer.dt_proj", "attn_norm": "norm"}
MAMBA2: Names = {**_mamba2_names("mixer"), "attn_norm": "norm"}
GRANITE: Names = {**PAIRED, **granite_experts(), **_mamba2_names("mamba")}
GRANITE_DENSE: Names = {
    **GRANITE,
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
FALCON_H1: Names = {
    **_FALCON,
    "ffn_norm": "pre_ff_layernorm.weight",  # so it is called in files
    "ffn_norm.weight": "pre_ff_layernorm.weight",
}
JAMBA: Names = {
    **_FEED,
    **_mixer("mamba"),
    **expert_names("feed_forward", "feed_forward.router"),
    "ssm_dt": "mamba.dt_proj",
    "ssm_dt_norm": "mamba.dt_layernorm",
    "ssm_b_norm": "mamba.b_layernorm",
    "ssm_c_norm": "mamba.c_layernorm",
}
FINAL: Names = {**OUTER, "output_norm": "model.final_layernorm"}
NEMOTRON: Names = {
    **MAMBA2,
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
NEMOTRON_OUTER: Names = {
    "token_embd": "model.embeddings",
    "output_norm": "model.norm_f",
    "output": "lm_head",
}
