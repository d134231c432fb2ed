"""Tiny random models of many architectures, and what llama.cpp's converter says of them."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

VOCAB, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 264, 64, 96, 4, 4, 2, 16
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
}
_LATENT = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "num_key_value_heads": 4,
}
_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "head_dim": HEAD_DIM,
}
_MIXER = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_expand": 2,
}
_SCALES = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.5,
    "logits_scaling": 4.0,
}
_HEAD = {"head_dim": HEAD_DIM}


def _rope(**values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **values}}


@dataclass(frozen=True)
class Tiny:
    """A model: llama.cpp's architecture, transformers' classes, options, further metadata.

    dropped: common options that its configuration does not have.
    """

    architecture: str
    config: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    def build(self, **more: Any) -> Any:
        """Return the model, with numbers that 16 bits hold."""
        values = {**_COMMON, **self.options, **more}
        values = {key: value for key, value in values.items() if key not in self.dropped}
        config = getattr(transformers, self.config)(**values)
        torch.manual_seed(1)
        model = getattr(transformers, self.model)(config).float().eval()
        generator = torch.Generator().manual_seed(7)
        for name, numbers in [*model.named_parameters(), *model.named_buffers()]:
            kept = numbers.data if numbers.ndim == 1 else torch.zeros(())
            is_bias = "correction_bias" in name or "expert_bias" in name
            if isinstance(numbers, torch.nn.Parameter) or is_bias:
                if "A_log" not in name and "act_fn" not in name:
                    noise = torch.randn(numbers.shape, generator=generator) * 0.12
                    numbers.data.copy_(kept + noise)
                numbers.data.copy_(numbers.data.half().float())
        model.tie_weights()
        return model


def _t(name: str, **values: Any) -> Tiny:
    prefix = values.pop("cls", name)
    config = values.pop("config", f"{prefix}Config")
    model = values.pop("model", f"{prefix}ForCausalLM")
    architecture = values.pop("arch", name.lower())
    return Tiny(architecture, config, model, **values)


_YARN = _rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
_LLAMA3 = _rope(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
_GATED = {"expert_count": 4, "expert_used_count": 2}
_MOE = {**_GATED, "expert_feed_forward_length": 32}
_DEEP = {
    **_MOE,
    "expert_shared_count": 1,
    "leading_dense_block_count": 1,
    "expert_weights_scale": 1.5,
    "expert_weights_norm": True,
}
_SSM = {"ssm.conv_kernel": 4, "ssm.state_size": 16, "ssm.inner_size": 128}
_SSM2 = {**_SSM, "ssm.time_step_rank": 8, "ssm.group_count": 1}
_DELTA_SSM = {
    "ssm.conv_kernel": 4, "ssm.state_size": 16, "ssm.group_count": 2, "ssm.time_step_rank": 6,
    "ssm.inner_size": 96, "rope.dimension_count": 4, "attention.key_length": 16,
    "attention.value_length": 16, "full_attention_interval": 4,
}  # fmt: skip
_GRANITE = {
    "attention.scale": 0.2,
    "embedding_scale": 3.0,
    "residual_scale": 0.5,
    "logit_scale": 4.0,
}
_KEYS = {"attention.key_length": 16, "attention.value_length": 16}
_EPS = {"attention.layer_norm_epsilon": 1e-5}
_TIED = {"tie_word_embeddings": True}
_KINDS = ["mamba", "attention", "mamba", "mamba"]
_HYBRID = {"layers_block_type": _KINDS, "layer_types": _KINDS, "position_embedding_type": "nope"}
_SHARED_WIDE = {"shared_expert_intermediate_size": 48}
_CACHE = {"conv_L_cache": 3, "layer_types": ["conv", "full_attention", "conv", "full_attention"]}
_LFM = {"attention.head_count_kv": [0, 2, 0, 2], "shortconv.l_cache": 3}
_GPT2 = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 256}
_MLA = {
    "attention.q_lora_rank": 24, "attention.kv_lora_rank": 16, "attention.key_length": 24,
    "attention.value_length": 16, "attention.key_length_mla": 24, "attention.value_length_mla": 12,
    "rope.dimension_count": 8, "attention.head_count_kv": 1,
}  # fmt: skip

MODELS = {
    "llama": _t("Llama", options=_HEAD),
    "llama3": _t("Llama", options={**_HEAD, **_LLAMA3}),
    "qwen2 yarn": _t(
        "Qwen2",
        options=_YARN,
        metadata={
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
    "qwen2moe": _t(
        "Qwen2Moe",
        options={**_EXPERTS, **_SHARED_WIDE, "decoder_sparse_step": 1, "mlp_only_layers": []},
        metadata=_MOE,
    ),
    "gemma": _t("Gemma", options={**_HEAD, **_TIED}, metadata=_KEYS),
    "gemma3": _t(
        "Gemma3",
        config="Gemma3TextConfig",
        options={
            **_HEAD,
            **_TIED,
            "sliding_window": 8,
            "num_hidden_layers": 7,
            "query_pre_attn_scalar": HEAD_DIM,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        metadata={
            **_KEYS,
            "attention.sliding_window": 8,
            "rope.freq_base": 1e6,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
    ),
    "phi2": _t(
        "Phi",
        arch="phi2",
        options={"num_key_value_heads": 4},
        metadata={**_EPS, "rope.dimension_count": 8},
    ),
    "phi3": _t("Phi3", options={**_rope(), "original_max_position_embeddings": 256}),
    "granite": _t("Granite", options=_SCALES, metadata=_GRANITE),
    "granitemoe": _t(
        "GraniteMoeShared",
        arch="granitemoe",
        options={**_SCALES, **_LOCAL, "shared_intermediate_size": 48},
        metadata={**_GRANITE, **_GATED, "expert_shared_feed_forward_length": 48},
    ),
    "granitehybrid": _t(
        "GraniteMoeHybrid",
        arch="granitehybrid",
        options={**_SCALES, **_LOCAL, **_MIXER, **_HYBRID, "shared_intermediate_size": 48},
        metadata={
            **_GRANITE,
            **_GATED,
            **_SSM2,
            "attention.head_count_kv": [0, 2, 0, 0],
            "rope.scaling.finetuned": False,
        },
    ),
    "glm4": _t("Glm4", options=_HEAD, metadata={**_KEYS, "rope.dimension_count": 8}),
    "glm4moe": _t(
        "Glm4Moe",
        options={**_HEAD, **_ROUTED, "use_qk_norm": True},
        metadata={**_DEEP, **_KEYS, "rope.dimension_count": 8, "expert_gating_func": 2},
    ),
    "deepseek2": _t(
        "DeepseekV3",
        arch="deepseek2",
        options={
            **_ROUTED,
            **_LATENT,
            "n_group": 2,
            **_rope(
                rope_type="yarn",
                factor=4.0,
                original_max_position_embeddings=64,
                mscale=1.0,
                mscale_all_dim=1.0,
            ),
        },
        metadata={
            **_DEEP,
            **_MLA,
            "expert_group_count": 2,
            "expert_group_used_count": 1,
            "expert_gating_func": 2,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
            "rope.scaling.yarn_log_multiplier": 0.1,
        },
    ),
    "smollm3": _t("SmolLM3", arch="smollm3"),
    "olmo2": _t("Olmo2"),
    "olmo3": _t(
        "Olmo3",
        arch="olmo2",
        options={"sliding_window": 8},
        metadata={"attention.sliding_window": 8},
    ),
    "olmoe": _t("Olmoe", options={**_EXPERTS, "intermediate_size": 32}, metadata=_MOE),
    "cohere2": _t(
        "Cohere2",
        options={**_TIED, "logit_scale": 0.5, "sliding_window": 8},
        metadata={
            **_EPS,
            "logit_scale": 0.5,
            "attention.sliding_window": 8,
            "rope.scaling.type": "none",
        },
    ),
    "ernie4_5": _t("Ernie4_5", options={**_HEAD, "use_bias": False}),
    "hunyuan-dense": _t("HunYuanDenseV1", arch="hunyuan-dense", options=_HEAD, metadata=_KEYS),
    "exaone4": _t(
        "Exaone4",
        options={"sliding_window": 8, "sliding_window_pattern": 4, "num_hidden_layers": 8},
        metadata={
            "attention.sliding_window": 8,
            "attention.sliding_window_pattern": [True, True, True, False] * 2,
        },
    ),
    "seed_oss": _t("SeedOss", arch="seed_oss", options=_HEAD, metadata=_KEYS),
    "arcee": _t("Arcee", options=_HEAD),
    "apertus": _t(
        "Apertus",
        options={**_rope()},
        metadata={
            f"/xielu.{name}": [value] * LAYERS
            for name, value in {
                "alpha_n": math.log(math.expm1(0.3)),
                "alpha_p": math.log(math.expm1(0.8)),
                "beta": 0.5,
                "eps": -1e-6,
            }.items()
        },
    ),
    "dots1": _t("Dots1", options={**_HEAD, **_ROUTED}, metadata={**_DEEP, **_KEYS}),
    "falcon": _t(
        "Falcon",
        options={
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "bias": False,
            "alibi": False,
        },
        metadata={**_EPS, "attention.head_count_kv": 2},
        dropped=("intermediate_size", "num_key_value_heads", "tie_word_embeddings"),
    ),
    "starcoder2": _t("Starcoder2", options={"use_bias": True}, metadata=_EPS),
    "gpt2": _t(
        "GPT2",
        model="GPT2LMHeadModel",
        options={**_GPT2, **_TIED},
        metadata=_EPS,
        dropped=tuple(
            _COMMON.keys() - {"vocab_size", "bos_token_id", "eos_token_id", "tie_word_embeddings"}
        ),
    ),
    "gptneox": _t(
        "GPTNeoX",
        options=_rope(partial_rotary_factor=0.25),
        metadata={**_EPS, "rope.dimension_count": 4, "use_parallel_residual": True},
    ),
    "bloom": _t("Bloom", options={"n_layer": LAYERS, "n_head": HEADS, **_TIED}, metadata=_EPS),
    "nemotron": _t("Nemotron", options=_HEAD, metadata={**_EPS, "rope.dimension_count": 8}),
    "llama4": _t(
        "Llama4",
        config="Llama4TextConfig",
        options={
            **_HEAD,
            **_LOCAL,
            "num_experts_per_tok": 1,
            "intermediate_size": 48,
            "intermediate_size_mlp": INNER,
            "interleave_moe_layer_step": 2,
            **_rope(),
        },
        metadata={
            "expert_count": 4,
            "expert_used_count": 1,
            "expert_feed_forward_length": 48,
            "interleave_moe_layer_step": 2,
            "feed_forward_length": INNER,
        },
    ),
    "lfm2": _t(
        "Lfm2", options={**_CACHE, **_TIED, "block_auto_adjust_ff_dim": False}, metadata=_LFM
    ),
    "lfm2moe": _t(
        "Lfm2Moe",
        options={**_CACHE, **_EXPERTS, **_TIED, "num_dense_layers": 1},
        metadata={**_LFM, **_MOE, "leading_dense_block_count": 1, "expert_gating_func": 2},
    ),
    "qwen3next": _t(
        "Qwen3Next",
        options={**_DELTA, **_EXPERTS, **_SHARED_WIDE},
        metadata={**_DELTA_SSM, **_MOE},
    ),
    "qwen35": _t(
        "Qwen3_5", arch="qwen35", config="Qwen3_5TextConfig", options=_DELTA, metadata=_DELTA_SSM
    ),
    "mamba2": _t(
        "Mamba2",
        options={"state_size": 16, "num_heads": 8, "head_dim": 16, "n_groups": 2, "expand": 2},
        metadata={**_SSM2, "ssm.group_count": 2, "attention.head_count": 0},
        dropped=("intermediate_size", "num_attention_heads", "num_key_value_heads"),
    ),
    "jamba": _t(
        "Jamba",
        options={
            **_EXPERTS,
            "attn_layer_period": 4,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 16,
            "mamba_dt_rank": 8,
            "use_mamba_kernels": False,
        },
        metadata={
            **_GATED,
            **_SSM,
            "ssm.time_step_rank": 8,
            "attention.head_count_kv": [0, 2, 0, 0],
        },
    ),
    "nemotron_h": _t(
        "NemotronH",
        arch="nemotron_h_moe",
        options={
            **_HEAD,
            **{key: _ROUTED[key] for key in ("n_routed_experts", "num_experts_per_tok")},
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 48,
            "layers_block_type": ["mamba", "moe", "attention", "mlp"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "n_groups": 1,
            "ssm_state_size": 16,
            "expand": 2,
        },
        metadata={
            **_MOE,
            **_SSM2,
            **_KEYS,
            **_EPS,
            "attention.head_count_kv": [0, 0, 2, 0],
            "expert_shared_count": 1,
            "expert_weights_norm": True,
        },
    ),
}


def metadata_of(tiny: Tiny, config: Any) -> dict[str, Any]:
    """Return what the converter says of a model's configuration."""
    values = {
        "context_length": 256,
        "embedding_length": HIDDEN,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": getattr(config, "intermediate_size", None) or 4 * HIDDEN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", HEADS) or HEADS,
        "attention.layer_norm_rms_epsilon": next(
            (
                getattr(config, name)
                for name in ("rms_norm_eps", "norm_eps", "layer_norm_epsilon")
                if getattr(config, name, None)
            ),
            1e-6,
        ),
    }
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if "rope_theta" in rope:
        values["rope.freq_base"] = float(rope["rope_theta"])
    return {**values, **tiny.metadata}
