"""Write transformers models as GGUF files, as llama.cpp's converter does, by code of our own.

Names are those of the gguf package's tables. What llama.cpp does to the numbers, by its converter
(build 11434): rotary pairs of some architectures are neighbours, Gemma's norms have one added,
states' rates of decay are stored negated, joined projections are taken apart, and so on. Nothing
here is shared with the code that reads files.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

Numbers = dict[str, torch.Tensor]
Change = Callable[[Any, torch.Tensor], torch.Tensor | Numbers]

# Names of transformers' parameters that the gguf package's tables lack, without layers.
_NAMES = {
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.gate.moe_statics.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.e_score_correction_bias": "exp_probs_b.bias",
    "mixer.gate.e_score_correction_bias": "exp_probs_b.bias",
    "feed_forward.expert_bias": "exp_probs_b.bias",
    "mlp.expert_bias": "exp_probs_b.bias",
    "block_sparse_moe.router.weight": "ffn_gate_inp.weight",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "mamba.dt_bias": "ssm_dt.bias",
    "mixer.dt_bias": "ssm_dt.bias",
    "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
    "mixer.gate.weight": "ffn_gate_inp.weight",
    "mixer.in_proj.weight": "ssm_in.weight",
    "mixer.out_proj.weight": "ssm_out.weight",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.conv1d.weight": "ssm_conv1d.weight",
    "mixer.conv1d.bias": "ssm_conv1d.bias",
    "mixer.norm.weight": "ssm_norm.weight",
    "mixer.q_proj.weight": "attn_q.weight",
    "mixer.k_proj.weight": "attn_k.weight",
    "mixer.v_proj.weight": "attn_v.weight",
    "mixer.o_proj.weight": "attn_output.weight",
    "mixer.up_proj.weight": "ffn_up.weight",
    "mixer.down_proj.weight": "ffn_down.weight",
    "mixer.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mixer.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
    "mixer.experts.up_proj": "ffn_up_exps.weight",
    "mixer.experts.down_proj": "ffn_down_exps.weight",
    "pre_ff_layernorm.weight": "ffn_norm.weight",
    "layer_scalar": "layer_output_scale.weight",
}
_PAIRED = {
    "llama", "granite", "granitemoe", "granitehybrid", "smollm3", "olmo", "mistral3", "arcee",
}  # fmt: skip
_ONE_ADDED = {"gemma", "gemma2", "gemma3", "nemotron", "qwen3next", "qwen35", "qwen35moe"}
_STATE_NORM = "linear_attn.norm.weight"


def convert(model: Any, architecture: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a file by llama.cpp's names."""
    count = model.config.num_hidden_layers
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, count)
    config = model.config
    for full, numbers in model.state_dict().items():
        if full.startswith("lm_head.") and config.tie_word_embeddings:
            continue
        layer, inner = _layer(full)
        change = next((c for end, c in _changes(architecture).items() if full.endswith(end)), None)
        values = numbers.float() if change is None else change(config, numbers.float())
        if isinstance(values, dict):
            yield from ((_at(layer, name), each) for name, each in values.items())
            continue
        yield _name(names, full, layer, inner), values


def _changes(architecture: str) -> dict[str, Change]:
    """Return what is done to parameters by the ends of their names."""
    found: dict[str, Change] = {**_COMMON}
    if architecture in _PAIRED:
        found |= {"q_proj.weight": _queries, "k_proj.weight": _keys}
    if architecture in _ONE_ADDED:
        found |= {_STATE_NORM: lambda _, x: x, "norm.weight": lambda _, x: x + 1}
    found |= _OF.get(architecture, {})
    return found


def _layer(full: str) -> tuple[int | None, str]:
    parts = full.split(".")
    place = next((n for n, part in enumerate(parts) if part.isdecimal()), None)
    if place is None or "altup_" in full:
        return None, full
    return int(parts[place]), ".".join(parts[place + 1 :])


def _at(layer: int | None, name: str) -> str:
    return name if layer is None else f"blk.{layer}.{name}"


def _name(names: Any, full: str, layer: int | None, inner: str) -> str:
    if inner in _NAMES:
        return _at(layer, _NAMES[inner])
    base, _, end = full.rpartition(".")
    ending = f".{end}" if end in ("weight", "bias") else ""
    found: str | None = names.get_name(base if ending else full)
    assert found is not None, full
    if not ending and not found.endswith(("ssm_a", "ssm_d", "exp_probs_b")):
        ending = ".weight"
    return found + ending


def _pairs(numbers: torch.Tensor, heads: int) -> torch.Tensor:
    """Put numbers that rotate together side by side: the first halves and the second of heads."""
    first, second = numbers.view(heads, 2, -1, numbers.shape[-1]).unbind(1)
    return torch.stack([first, second], 2).reshape(numbers.shape)


def _queries(config: Any, numbers: torch.Tensor) -> torch.Tensor:
    return _pairs(numbers, config.num_attention_heads)


def _keys(config: Any, numbers: torch.Tensor) -> torch.Tensor:
    return _pairs(numbers, config.num_key_value_heads)


def _experts(_: Any, numbers: torch.Tensor) -> Numbers:
    gate, up = numbers.chunk(2, 1)
    return {"ffn_gate_exps.weight": gate, "ffn_up_exps.weight": up}


def _turned_experts(_: Any, numbers: torch.Tensor) -> Numbers:
    gate, up = numbers.chunk(2, 2)
    return {"ffn_gate_exps.weight": gate.mT, "ffn_up_exps.weight": up.mT}


def _shared(_: Any, numbers: torch.Tensor) -> Numbers:
    gate, up = numbers.chunk(2)
    return {"ffn_gate_shexp.weight": gate, "ffn_up_shexp.weight": up}


def _latent(config: Any, numbers: torch.Tensor) -> Numbers:
    sizes = [config.qk_nope_head_dim, config.v_head_dim]
    heads = numbers.view(config.num_attention_heads, sum(sizes), config.kv_lora_rank)
    keys, values = torch.split(heads, sizes, 1)
    return {"attn_k_b.weight": keys.mT, "attn_v_b.weight": values}


def _apart(config: Any, numbers: torch.Tensor) -> torch.Tensor:
    """Return all queries, then all keys, then all values, of a projection by heads."""
    heads = numbers.view(config.num_attention_heads, 3, -1, *numbers.shape[1:])
    return heads.transpose(0, 1).reshape(numbers.shape)


def _apart_falcon(config: Any, numbers: torch.Tensor) -> torch.Tensor:
    groups, heads = config.num_kv_heads, config.num_attention_heads
    size = config.hidden_size // heads
    parts = numbers.view(groups, heads // groups + 2, size, -1)
    queries, keys, values = parts[:, :-2], parts[:, -2], parts[:, -1]
    return torch.cat([part.reshape(-1, numbers.shape[1]) for part in (queries, keys, values)])


def _decay(_: Any, numbers: torch.Tensor) -> torch.Tensor:
    rates = -torch.exp(numbers)
    return rates if numbers.ndim > 1 else rates.unsqueeze(1)


def _delta_input(config: Any, numbers: torch.Tensor) -> Numbers:
    groups = config.linear_num_key_heads
    members = config.linear_num_value_heads // groups
    keys, values = config.linear_key_head_dim, members * config.linear_value_head_dim
    heads = numbers.view(groups, -1, numbers.shape[1])
    parts = torch.split(heads, [keys, keys, values, values], 1)
    queries, keys_, values_, gates = (part.reshape(-1, numbers.shape[1]) for part in parts)
    return {"attn_qkv.weight": torch.cat([queries, keys_, values_]), "attn_gate.weight": gates}


def _turns(config: Any, numbers: torch.Tensor, size: int) -> torch.Tensor:
    """Let value heads of the key heads take turns, of so many rows each."""
    groups = config.linear_num_key_heads
    heads = numbers.reshape(groups, -1, size, *numbers.shape[1:])
    return heads.transpose(0, 1).reshape(numbers.shape)


def _after_keys(config: Any, numbers: torch.Tensor) -> torch.Tensor:
    first = 2 * config.linear_num_key_heads * config.linear_key_head_dim
    turned = _turns(config, numbers[first:], config.linear_value_head_dim)
    return torch.cat([numbers[:first], turned])


def _of_heads(config: Any, numbers: torch.Tensor) -> torch.Tensor:
    return _turns(config, numbers, 1)


def _of_values(config: Any, numbers: torch.Tensor) -> torch.Tensor:
    return _turns(config, numbers, config.linear_value_head_dim)


def _oss(_: Any, numbers: torch.Tensor) -> Numbers:
    gate, up = numbers[..., 0::2].mT, numbers[..., 1::2].mT
    return {"ffn_gate_exps.weight": gate, "ffn_up_exps.weight": up}


def _oss_bias(_: Any, numbers: torch.Tensor) -> Numbers:
    return {"ffn_gate_exps.bias": numbers[:, 0::2], "ffn_up_exps.bias": numbers[:, 1::2]}


_COMMON: dict[str, Change] = {
    "experts.gate_up_proj": _experts,
    "shared_mlp.input_linear.weight": _shared,
    "kv_b_proj.weight": _latent,
    "A_log": _decay,
    "conv1d.weight": lambda _, x: x.squeeze(1),
    "conv.conv.weight": lambda _, x: x.squeeze(1),
    "mamba.D": lambda _, x: x.unsqueeze(1),
    "mixer.D": lambda _, x: x.unsqueeze(1),
}
_DELTA: dict[str, Change] = {
    "A_log": lambda _, x: -torch.exp(x),
    "in_proj_qkvz.weight": _delta_input,
    "conv1d.weight": lambda _, x: x.squeeze(1),
}
_TILED: dict[str, Change] = {
    "A_log": lambda config, x: -torch.exp(_of_heads(config, x)),
    "conv1d.weight": lambda config, x: _after_keys(config, x.squeeze(1)),
    "in_proj_qkv.weight": _after_keys,
    "in_proj_z.weight": _of_values,
    "in_proj_a.weight": _of_heads,
    "in_proj_b.weight": _of_heads,
    "dt_bias": _of_heads,
    "out_proj.weight": lambda config, x: _of_values(config, x.mT).mT,
}
_CONV1D: dict[str, Change] = {
    f"{name}.weight": lambda _, x: x.mT for name in ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj")
}
_OF: dict[str, dict[str, Change]] = {
    "llama4": {
        "experts.gate_up_proj": _turned_experts,
        "experts.down_proj": lambda _, x: {"ffn_down_exps.weight": x.mT},
    },
    "gpt-oss": {
        "experts.gate_up_proj": _oss,
        "experts.gate_up_proj_bias": _oss_bias,
        "experts.down_proj": lambda _, x: {"ffn_down_exps.weight": x.mT},
    },
    "granitemoe": {
        "experts.down_proj": lambda _, x: {"ffn_down_exps.weight": x},
    },
    "granitehybrid": {
        "experts.down_proj": lambda _, x: {"ffn_down_exps.weight": x},
    },
    "gpt2": _CONV1D,
    "bloom": {
        "query_key_value.weight": _apart,
        "query_key_value.bias": _apart,
        "word_embeddings_layernorm.weight": lambda _, x: {"token_embd_norm.weight": x},
        "word_embeddings_layernorm.bias": lambda _, x: {"token_embd_norm.bias": x},
        "post_attention_layernorm.weight": lambda _, x: {"ffn_norm.weight": x},
        "post_attention_layernorm.bias": lambda _, x: {"ffn_norm.bias": x},
    },
    "gptneox": {"query_key_value.weight": _apart, "query_key_value.bias": _apart},
    "falcon": {"query_key_value.weight": _apart_falcon},
    "falcon-h1": {"pre_ff_layernorm.weight": lambda _, x: {"ffn_norm": x}},
    "mamba": {"mixer.D": lambda _, x: x, "A_log": lambda _, x: -torch.exp(x)},
    "jamba": {"mamba.D": lambda _, x: x, "A_log": lambda _, x: -torch.exp(x)},
    "qwen3next": _DELTA,
    "qwen35": _TILED,
    "qwen35moe": _TILED,
    "apertus": {
        f"act_fn.{name}": lambda _, x: {} for name in ("alpha_n", "alpha_p", "beta", "eps")
    },
}


def write_file(
    file: Path,
    architecture: str,
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, Any],
    kinds: Callable[[str], gguf.GGMLQuantizationType],
) -> dict[str, torch.Tensor]:
    """Write a file; return its tensors as it has them.

    metadata: keys with or without the architecture. kinds: the format of a matrix by name.
    """
    writer = gguf.GGUFWriter(file, architecture)
    for key, value in metadata.items():
        _add(writer, key if "." in key and key[0] == "/" else f"{architecture}.{key}", value)
    stored = {}
    for name, numbers in tensors.items():
        values = np.ascontiguousarray(numbers.detach().numpy())
        if values.ndim < 2 or values.shape[-1] % 32 or not name.endswith(".weight"):
            writer.add_tensor(name, values)
            stored[name] = numbers
            continue
        kind = kinds(name)
        packed = gguf.quantize(values, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        stored[name] = torch.from_numpy(gguf.dequantize(packed, kind).reshape(values.shape).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    key = key.lstrip("/")
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
