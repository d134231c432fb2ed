"""Tiny random models with quantized weights in safetensors, and what they must compute.

Each format is written from its documentation, by code of our own: GPTQ's (as AutoGPTQ saves it),
AWQ's (version gemm), compressed-tensors' pack-quantized and int-quantized, and 8-bit floats.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import save_file

Numbers = NDArray[Any]
Tensors = dict[str, torch.Tensor]
VOCAB = 160
_CONFIG: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.08,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the outputs whose codes a word has, from its lowest bits


def save_pack(
    folder: Path,
    method: str,
    *,
    bits: int = 4,
    group: int = 32,
    symmetric: bool = True,
    act_order: str = "",
    quantization: Mapping[str, Any] | None = None,
    kind: str = "Llama",
    scale_dtype: torch.dtype = torch.float16,
    mixed: bool = False,
    **options: Any,
) -> transformers.PreTrainedModel:
    """Write a folder with a random model's linear layers quantized, but for the head.

    group: inputs that have a scale in common; -1: all. act_order: whether groups are mixed: "alike"
        in layers that read the same, or "each" in another way. quantization: what differs in the
        configuration's quantization_config. mixed: the last layers of experts have zero points.

    Returns the model with the numbers that the folder holds.
    """
    config = getattr(transformers, f"{kind}Config")(**{**_CONFIG, **options})
    torch.manual_seed(2)
    model: Any = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    tensors: Tensors = {}
    layers = {f"{name}.weight": layer for name, layer in model.named_modules()}
    scheme = Scheme(bits, group, symmetric, act_order, scale_dtype, quantization or {})
    for name, parameter in model.named_parameters():
        if name.startswith("lm_head") and config.tie_word_embeddings:
            continue
        if parameter.ndim == 3:
            for place, matrix in _expert_matrices(name, kind, parameter.data):
                made = symmetric and not (mixed and "down" in name)
                own = Scheme(bits, group, made, act_order, scale_dtype, quantization or {})
                written, numbers = _WRITERS[method](matrix.numpy(), own)
                tensors |= {f"{place}.{last}": tensor for last, tensor in written.items()}
                matrix.copy_(torch.from_numpy(numbers))
            continue
        layer = layers.get(name)
        if not isinstance(layer, torch.nn.Linear) or name.startswith("lm_head"):
            tensors[name.replace(".mlp.", ".block_sparse_moe.") if kind == "Mixtral" else name] = (
                parameter.data
            )
            continue
        write = _WRITERS[method]
        written, numbers = write(parameter.data.numpy(), scheme)
        stem = name.removesuffix(".weight")
        tensors |= {f"{stem}.{last}": tensor for last, tensor in written.items()}
        parameter.data = torch.from_numpy(numbers).float()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    text = config.to_dict() | {"architectures": [type(model).__name__], "dtype": "float16"}
    text["quantization_config"] = quantization_config(method, scheme)
    (folder / "config.json").write_text(json.dumps(text))
    return model  # type: ignore[no-any-return]


def _expert_matrices(
    name: str, kind: str, stacked: torch.Tensor
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the names that checkpoints have for matrices of experts, and views of them."""
    base, _, last = name.rpartition(".")
    names = ("gate_proj", "up_proj", "down_proj")
    if kind == "Mixtral":
        base, names = base.replace(".mlp.", ".block_sparse_moe."), ("w1", "w3", "w2")
    for number, matrix in enumerate(stacked):
        if last == "down_proj":
            yield f"{base}.{number}.{names[2]}", matrix
        else:
            for part, half in zip(names, matrix.chunk(2), strict=False):
                yield f"{base}.{number}.{part}", half


class Scheme:
    """How a layer is quantized; see `save_pack`."""

    def __init__(
        self,
        bits: int,
        group: int,
        symmetric: bool,
        act_order: str,
        scale_dtype: torch.dtype,
        changes: Mapping[str, Any],
    ) -> None:
        self.bits, self.group, self.symmetric = bits, group, symmetric
        self.act_order, self.scale_dtype, self.changes = act_order, scale_dtype, changes


def quantization_config(method: str, scheme: Scheme) -> dict[str, Any]:
    """Return what the format's own tools write into config.json."""
    bits, group, symmetric = scheme.bits, scheme.group, scheme.symmetric
    if method == "gptq":
        made = {"bits": bits, "group_size": group, "sym": symmetric, "checkpoint_format": "gptq"}
        found = {"quant_method": "gptq", "desc_act": bool(scheme.act_order), **made}
    elif method == "awq":
        made = {"bits": bits, "group_size": group, "zero_point": True, "version": "gemm"}
        found = {"quant_method": "awq", **made}
    elif method == "fp8":
        found = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [64, 64]}
    elif method == "modelopt":
        found = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}
    else:
        weights = {"num_bits": bits, "type": "int", "symmetric": symmetric}
        weights |= {"strategy": "channel" if group < 0 else "group"}
        weights |= {"group_size": None if group < 0 else group}
        weights |= {"actorder": "group" if scheme.act_order else None}
        groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
        found = {"quant_method": "compressed-tensors", "format": method, "config_groups": groups}
        found |= {"ignore": ["lm_head"], "quantization_status": "compressed"}
    return {**found, **scheme.changes}


def pack_bits(values: Numbers, bits: int) -> torch.Tensor:
    """Return codes [rows, n] as words of 32 bits, the first in the lowest bits."""
    shifts = np.arange(bits)
    flat = (values[..., None].astype(np.int64) >> shifts & 1).astype(np.uint8)
    flat = flat.reshape(len(values), -1)
    packed = np.packbits(flat, axis=1, bitorder="little")
    packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4)))
    return torch.from_numpy(packed.view(np.int32).copy())


class _Quantized:
    """Codes of a weight, with a scale and a zero point for each group of its inputs."""

    def __init__(self, weight: Numbers, scheme: Scheme) -> None:
        outputs, inputs = weight.shape
        size = inputs if scheme.group < 0 else scheme.group
        most = 2**scheme.bits - 1
        self.groups = np.arange(inputs) // size
        if scheme.act_order:
            seed = inputs if scheme.act_order == "alike" else int(np.abs(weight).sum() * 1e4)
            self.groups = self.groups[np.random.default_rng(seed).permutation(inputs)]
        count = self.groups.max() + 1
        self.scales = np.empty((outputs, count), np.float32)
        self.zeros = np.full((outputs, count), 2 ** (scheme.bits - 1), np.int64)
        for group in range(count):
            part = weight[:, self.groups == group]
            least, greatest = part.min(1), part.max(1)
            if scheme.symmetric:
                self.scales[:, group] = np.abs(part).max(1) / (most // 2)
            else:
                self.scales[:, group] = (greatest - least) / most
                self.zeros[:, group] = np.clip(np.round(-least / self.scales[:, group]), 1, most)
        self.scale_tensor = torch.from_numpy(self.scales).to(scheme.scale_dtype)
        self.scales = self.scale_tensor.float().numpy()
        each = self.scales[:, self.groups], self.zeros[:, self.groups]
        self.codes = np.clip(np.round(weight / each[0]) + each[1], 0, most).astype(np.int64)
        self.numbers = (self.codes - each[1]) * each[0]


def _gptq(weight: Numbers, scheme: Scheme) -> tuple[Tensors, Numbers]:
    made = _Quantized(weight, scheme)
    # Version 1 of the format stores zero points less one.
    zeros = made.zeros.T - (scheme.changes.get("checkpoint_format") != "gptq_v2")
    return {
        "qweight": pack_bits(made.codes, scheme.bits).t().contiguous(),
        "qzeros": pack_bits(zeros, scheme.bits),
        "scales": made.scale_tensor.t().contiguous(),
        "g_idx": torch.from_numpy(made.groups.astype(np.int32)),
    }, made.numbers


def _awq(weight: Numbers, scheme: Scheme) -> tuple[Tensors, Numbers]:
    made = _Quantized(weight, scheme)

    def pack(values: Numbers) -> torch.Tensor:
        ordered = values.reshape(len(values), -1, 8)[..., list(_AWQ_ORDER)]
        return pack_bits(ordered.reshape(values.shape), 4)

    return {
        "qweight": pack(made.codes.T),
        "qzeros": pack(made.zeros.T),
        "scales": made.scale_tensor.t().contiguous(),
    }, made.numbers


def _pack_quantized(weight: Numbers, scheme: Scheme) -> tuple[Tensors, Numbers]:
    made = _Quantized(weight, scheme)
    tensors = {
        "weight_packed": pack_bits(made.codes, scheme.bits),
        "weight_scale": made.scale_tensor,
        "weight_shape": torch.tensor(weight.shape),
    }
    if not scheme.symmetric:
        tensors["weight_zero_point"] = pack_bits(made.zeros.T, scheme.bits).t().contiguous()
    if scheme.act_order:
        tensors["weight_g_idx"] = torch.from_numpy(made.groups.astype(np.int32))
    return tensors, made.numbers


def _int_quantized(weight: Numbers, scheme: Scheme) -> tuple[Tensors, Numbers]:
    made = _Quantized(weight, scheme)
    codes = torch.from_numpy((made.codes - 128).astype(np.int8))
    return {"weight": codes, "weight_scale": made.scale_tensor}, made.numbers


def _fp8(weight: Numbers, scheme: Scheme) -> tuple[Tensors, Numbers]:
    values = torch.from_numpy(weight)
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(values, (0, -inputs % 64, 0, -outputs % 64))
    scales = padded.unfold(0, 64, 64).unfold(1, 64, 64).abs().amax((2, 3)) / 448
    each = scales.repeat_interleave(64, 0).repeat_interleave(64, 1)[:outputs, :inputs]
    codes = (values / each).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale_inv": scales}, (codes.float() * each).numpy()


def _fp8_of_channels(weight: Numbers, scheme: Scheme) -> tuple[Tensors, Numbers]:
    scales = torch.from_numpy(weight).abs().amax(1, keepdim=True) / 448
    codes = (torch.from_numpy(weight) / scales).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scales}, (codes.float() * scales).numpy()


def _modelopt(weight: Numbers, scheme: Scheme) -> tuple[Tensors, Numbers]:
    scale = torch.from_numpy(weight).abs().amax() / 448
    codes = (torch.from_numpy(weight) / scale).to(torch.float8_e4m3fn)
    tensors = {"weight": codes, "weight_scale": scale, "input_scale": torch.tensor(0.02)}
    return tensors, (codes.float() * scale).numpy()


_WRITERS: dict[str, Callable[[Numbers, Scheme], tuple[Tensors, Numbers]]] = {
    "gptq": _gptq,
    "awq": _awq,
    "pack-quantized": _pack_quantized,
    "int-quantized": _int_quantized,
    "fp8": _fp8,
    "float-quantized": _fp8_of_channels,
    "modelopt": _modelopt,
}


def save_mxfp4(folder: Path) -> None:
    """Write a folder with a random gpt-oss, its experts in 4-bit floats as OpenAI's are."""
    options: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32}
    options |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    config = transformers.GptOssConfig(**{**_CONFIG, "intermediate_size": 96, **options})
    torch.manual_seed(3)
    model = transformers.GptOssForCausalLM(config)
    tensors: Tensors = {}
    for name, parameter in model.named_parameters():
        values = torch.randn_like(parameter) * 0.1 if parameter.ndim < 3 else parameter
        if parameter.ndim < 3 or name.endswith("_bias"):
            tensors[name] = values.detach().bfloat16()
            continue
        experts, inputs, outputs = parameter.shape
        shape, generator = (experts, outputs, inputs // 32), np.random.default_rng(inputs)
        codes = generator.integers(0, 256, (*shape, 16), dtype=np.uint8)
        scales = generator.integers(119, 124, shape, dtype=np.uint8)
        tensors |= {f"{name}_blocks": torch.from_numpy(codes)}
        tensors |= {f"{name}_scales": torch.from_numpy(scales)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    text = config.to_dict() | {"architectures": ["GptOssForCausalLM"], "dtype": "bfloat16"}
    text["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(text))
