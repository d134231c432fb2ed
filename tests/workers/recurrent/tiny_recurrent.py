"""Tiny random models with recurrent layers, one of each family."""

from typing import Any

import torch
import transformers
from torch import nn
from transformers.modeling_utils import PreTrainedModel

VOCAB = 199

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_MIXED = ["linear_attention", "full_attention", "linear_attention"]
_DELTA: dict[str, Any] = {
    "layer_types": _MIXED,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_LATENT: dict[str, Any] = {
    "layer_types": _MIXED,
    "mlp_layer_types": ["dense", "dense", "sparse"],
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
}
_CONVS: dict[str, Any] = {"layer_types": ["conv", "full_attention", "conv"], "conv_L_cache": 3}
_MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
}

# name: (configuration, model class, options that differ from the common ones)
RECURRENT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3_next": ("Qwen3NextConfig", "Qwen3NextForCausalLM", {**_DELTA, **_EXPERTS}),
    "qwen3_5": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", _DELTA),
    "qwen3_5_moe": ("Qwen3_5MoeTextConfig", "Qwen3_5MoeForCausalLM", {**_DELTA, **_EXPERTS}),
    "olmo_hybrid": ("OlmoHybridConfig", "OlmoHybridForCausalLM", _DELTA),
    "lfm2": ("Lfm2Config", "Lfm2ForCausalLM", _CONVS),
    "lfm2_moe": (
        "Lfm2MoeConfig",
        "Lfm2MoeForCausalLM",
        {**_CONVS, **_EXPERTS, "num_dense_layers": 1},
    ),
    "lfm3": ("Lfm3Config", "Lfm3ForCausalLM", _CONVS),
    "mamba": ("MambaConfig", "MambaForCausalLM", {"state_size": 8}),
    "mamba2": (
        "Mamba2Config",
        "Mamba2ForCausalLM",
        {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8, "chunk_size": 16},
    ),
    "falcon_mamba": ("FalconMambaConfig", "FalconMambaForCausalLM", {"state_size": 8}),
    "bamba": ("BambaConfig", "BambaForCausalLM", {**_MAMBA, "attn_layer_indices": [1]}),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        "GraniteMoeHybridForCausalLM",
        {**_MAMBA, "layer_types": ["mamba", "attention", "mamba"], "shared_intermediate_size": 32},
    ),
    "nemotron_h": (
        "NemotronHConfig",
        "NemotronHForCausalLM",
        {
            "layers_block_type": ["mamba", "attention", "mamba"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "ssm_state_size": 8,
            "chunk_size": 16,
        },
    ),
    "falcon_h1": ("FalconH1Config", "FalconH1ForCausalLM", {**_MAMBA, "mamba_d_ssm": 64}),
    "jamba": (
        "JambaConfig",
        "JambaForCausalLM",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "zamba": (
        "ZambaConfig",
        "ZambaForCausalLM",
        {
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "num_hidden_layers": 4,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "n_mamba_heads": 2,
            "use_mamba_kernels": False,
        },
    ),
    "zamba2": (
        "Zamba2Config",
        "Zamba2ForCausalLM",
        {
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "num_hidden_layers": 4,
            "mamba_d_state": 8,
            "mamba_ngroups": 2,
            "n_mamba_heads": 8,
            "mamba_headdim": 8,
            "chunk_size": 16,
            "num_mem_blocks": 1,
            "adapter_rank": 4,
            "use_mem_rope": True,
        },
    ),
    "kimi_linear": ("KimiLinearConfig", "KimiLinearForCausalLM", _LATENT),
    "bailing_hybrid": (
        "BailingHybridConfig",
        "BailingHybridForCausalLM",
        {**_LATENT, "n_group": 1, "topk_group": 1},
    ),
    "zaya": (
        "ZayaConfig",
        "ZayaForCausalLM",
        {"num_experts": 4, "moe_intermediate_size": 16, "router_hidden_size": 16},
    ),
    "lara_mini": ("LaraMiniConfig", "LaraMiniForCausalLM", {**_DELTA, **_EXPERTS}),
    "minimax": (
        "MiniMaxConfig",
        "MiniMaxForCausalLM",
        {"layer_types": _MIXED, "block_size": 8, "num_local_experts": 4},
    ),
}


def tiny_recurrent(name: str, **options: object) -> PreTrainedModel:
    """Make the model of a family in float32; the same one each time.

    Its weights are large enough that texts do not repeat.
    """
    config_name, class_name, own = RECURRENT[name]
    settings = {**_COMMON, **own, **options}
    if class_name.startswith(("Mamba", "FalconMamba")):  # they have no positions
        del settings["max_position_embeddings"]
    config = getattr(transformers, config_name)(**settings)
    torch.manual_seed(len(name))
    model: Any = getattr(transformers, class_name)(config)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
            std = (
                1.0 if isinstance(module, nn.Embedding) else 1.5 * module.weight[0].numel() ** -0.5
            )
            with torch.no_grad():
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * std)
    made: PreTrainedModel = model.eval()
    return made
