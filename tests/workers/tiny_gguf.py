"""Tiny random models of several architectures as GGUF files, and what they must compute.

The tensors are changed as llama.cpp's converter changes them, by code of our own.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from numpy.typing import NDArray

VOCAB = 260
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 64, 96, 2, 4, 2, 16
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# llama.cpp's name: (configuration, model class, options that differ from the common ones)
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {}),
    "gemma2": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {"tie_word_embeddings": True, "query_pre_attn_scalar": HEAD_DIM},
    ),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {}),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"tie_word_embeddings": True, "max_position_embeddings": 1024},
    ),
    "mixtral": (
        "MixtralConfig",
        "MixtralForCausalLM",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "gpt-oss": (
        "GptOssConfig",
        "GptOssForCausalLM",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 10,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "qwen3moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "norm_topk_prob": True,  # as all published ones have it; the format cannot say it
        },
    ),
}


_ARCHITECTURES = {"mixtral": "llama"}  # llama.cpp's, where the name is another


def save_tiny_gguf(
    file: Path,
    name: str,
    type_name: str = "q8_0",
    split_tensors: int = 0,
    seed: int = 0,
    **options: Any,
) -> transformers.PreTrainedModel:
    """Write a GGUF file of an architecture; return the model with the file's rounded weights.

    split_tensors: the most tensors of one file; 0: there is one file.
    """
    config_class, model_class, different = MODELS[name]
    config = getattr(transformers, config_class)(**{**_COMMON, **different, **options})
    torch.manual_seed(seed)
    model: transformers.PreTrainedModel = getattr(transformers, model_class)(config).float().eval()
    if name == "gpt-oss":  # biases start at zero, which hides errors
        for each, parameter in model.named_parameters():
            if "bias" in each:
                parameter.data.normal_(std=0.2)
    name = _ARCHITECTURES.get(name, name)
    writer = gguf.GGUFWriter(file, name, split_max_tensors=split_tensors)
    _add_metadata(writer, config)
    kind = gguf.GGMLQuantizationType[type_name.upper()]
    for tensor_name, values, put in _tensors(model, name):
        rounded = _add_tensor(writer, tensor_name, values, kind)
        put(torch.from_numpy(rounded))
    _add_rope_factors(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add_rope_factors(writer: gguf.GGUFWriter, model: Any) -> None:
    """Add the tensor in which llama.cpp keeps what a model divides its rotary frequencies by."""
    rotary = getattr(model.base_model, "rotary_emb", None)
    if rotary is None or not hasattr(rotary, "inv_freq") or rotary.rope_type in ("default", "yarn"):
        return
    plain = 10000.0 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    writer.add_tensor("rope_freqs.weight", (plain / rotary.inv_freq).float().numpy())


def _add_metadata(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or 4 * HIDDEN)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", HEADS))
    writer.add_layer_norm_rms_eps(getattr(config, "rms_norm_eps", 1e-6))
    writer.add_layer_norm_eps(getattr(config, "layer_norm_epsilon", 1e-5))
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    if hasattr(config, "sliding_window") and config.sliding_window:
        writer.add_sliding_window(config.sliding_window)
    num_experts = getattr(config, "num_experts", getattr(config, "num_local_experts", None))
    if num_experts:
        writer.add_expert_count(num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if hasattr(config, "moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
        writer.add_rope_scaling_orig_ctx_len(16)
    add_tokenizer(writer, VOCAB)
    writer.add_pad_token_id(0)


def add_tokenizer(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    """Add a byte-level tokenizer of so many tokens, the first of which are special."""
    letters = [*"abcdefgh", "ab", *map(chr, range(256, 256 + vocab_size - 12))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<unk>", "<s>", "</s>", *letters])
    writer.add_token_types([3, 3, 3] + [1] * len(letters))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _tensors(model: Any, architecture: str) -> Any:
    """Yield llama.cpp's name of each tensor, its numbers, and a function that sets those."""
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(arch, LAYERS)
    is_tied = model.config.tie_word_embeddings
    for full, parameter in model.named_parameters():
        if full.startswith("lm_head.") and is_tied:
            continue
        base, _, last = full.rpartition(".")
        suffix = f".{last}" if last in ("weight", "bias") else ""
        base = base if suffix else full
        if architecture == "gpt-oss" and ".experts." in base:
            yield from _interleaved(names, base, parameter.data)
            continue
        if base.endswith("experts.gate_up_proj"):
            half = parameter.shape[1] // 2
            stem = names.get_name(base.replace("gate_up_proj", "down_proj"))
            assert stem is not None
            for part, rows in (("gate", slice(0, half)), ("up", slice(half, None))):
                view = parameter.data[:, rows]
                yield stem.replace("down", part) + ".weight", view.numpy(), view.copy_
            continue
        name = names.get_name(base)
        assert name is not None, full
        suffix = suffix or ".weight"
        yield _changed(architecture, name + suffix, parameter.data)


def _interleaved(names: Any, base: str, data: torch.Tensor) -> Any:
    """Yield the same of gpt-oss' experts, whose gate and partner take turns."""
    suffix = ".bias" if base.endswith("_bias") else ".weight"
    stem = names.get_name(base.removesuffix("_bias").replace("gate_up_proj", "down_proj"))
    parts = {"down": data}
    if "gate_up_proj" in base:
        parts = {"gate": data[..., ::2], "up": data[..., 1::2]}
    for part, view in parts.items():
        turned = view.transpose(1, 2) if view.ndim == 3 else view
        yield stem.replace("down", part) + suffix, turned.contiguous().numpy(), turned.copy_


def _changed(architecture: str, name: str, data: torch.Tensor) -> Any:
    if architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
        rows = torch.arange(len(data)).view(-1, 2, HEAD_DIM // 2).transpose(1, 2).flatten()
        put = lambda values: data.index_copy_(0, rows, values)  # noqa: E731
        return name, data[rows].numpy(), put
    if architecture == "gemma2" and name.endswith("norm.weight"):
        return name, (data + 1).numpy(), lambda values: data.copy_(values - 1)
    if architecture == "gpt2" and data.ndim == 2 and name.startswith("blk."):
        return name, data.t().contiguous().numpy(), lambda values: data.copy_(values.t())
    return name, data.numpy(), data.copy_


def _add_tensor(
    writer: gguf.GGUFWriter,
    name: str,
    values: NDArray[np.float32],
    kind: gguf.GGMLQuantizationType,
) -> NDArray[np.float32]:
    """Add a tensor, matrices in that format; return the numbers that the file then has."""
    if values.ndim == 1 or name.endswith(".bias"):
        writer.add_tensor(name, values)
        return values
    packed = gguf.quantize(values, kind)
    writer.add_tensor(name, packed, raw_dtype=kind)
    result: NDArray[np.float32] = gguf.dequantize(packed, kind)
    return result.reshape(values.shape)
