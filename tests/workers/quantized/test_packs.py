"""A model is served from the packed integers of its safetensors, and computes what they hold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.protocol.common.stored_quantization import (
    StoredQuantizationError,
    stored_quantization,
)
from headrace.protocol.config import CpuKernels, EngineConfig
from headrace.workers.build import build_engine
from headrace.workers.errors import ModelUnsupported
from headrace.workers.quantized.parameter import PackedParameter
from headrace.workers.quantized.tensor import quantized_of
from headrace.workers.torch_runner.loading import load_model
from tests.workers.processors import use_kernels
from tests.workers.tiny_models import save_tiny
from tests.workers.tiny_packs import save_pack

IDS = torch.tensor([[1, 5, 9, 120, 7, 7, 31]])
# name: (method, options, format of the layers)
PACKS: dict[str, tuple[str, dict[str, Any], str]] = {
    "gptq": ("gptq", {}, "q4_0"),
    "gptq of 128 inputs": ("gptq", {"group": 128}, "q4_0"),
    "gptq of channels": ("gptq", {"group": -1}, "q4_0"),
    "gptq with zero points": ("gptq", {"symmetric": False}, "q4_1"),
    "gptq, version 2": (
        "gptq", {"symmetric": False, "quantization": {"checkpoint_format": "gptq_v2"}}, "q4_1",
    ),
    "gptq of 8 bits": ("gptq", {"bits": 8}, "q8_0"),
    "gptq of 8 bits with zero points": ("gptq", {"bits": 8, "symmetric": False}, "q8_m"),
    "gptq in act-order": ("gptq", {"act_order": "alike"}, "q4_0"),
    "gptq in act-order with zero points": (
        "gptq", {"act_order": "alike", "symmetric": False, "group": 64}, "q4_1",
    ),
    "gptq of 3 bits": ("gptq", {"bits": 3}, "q4_0"),
    "gptq of 2 bits": ("gptq", {"bits": 2, "symmetric": False}, "q4_1"),
    "awq": ("awq", {"symmetric": False, "group": 64}, "q4_1"),
    "w4a16": ("pack-quantized", {"scale_dtype": torch.bfloat16, "group": 128}, "q4_0"),
    "w4a16 with zero points": ("pack-quantized", {"symmetric": False}, "q4_1"),
    "gptq in several act-orders": ("gptq", {"act_order": "each", "group": 64}, "q4_0"),
    "w4a16 in act-order": ("pack-quantized", {"act_order": "alike"}, "q4_0"),
    "w4a16 of channels": ("pack-quantized", {"group": -1}, "q4_0"),
    "w8a16": ("pack-quantized", {"bits": 8, "group": -1}, "q8_0"),
    "w8a8": ("int-quantized", {"bits": 8, "group": -1}, "q8_0"),
}  # fmt: skip


def loaded(folder: Path, log: Callable[[str], None] = print) -> Any:
    return load_model(folder, "float32", torch.device("cpu"), False, log)


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits  # type: ignore[no-any-return]


def formats(model: Any) -> set[str]:
    packed = [p for p in model.parameters() if isinstance(p, PackedParameter)]
    return {weight.format for weight in map(quantized_of, packed) if weight is not None}


@pytest.mark.parametrize("name", PACKS)
def test_it_computes_what_the_folder_holds(tmp_path: Path, name: str) -> None:
    method, options, expected = PACKS[name]
    reference = save_pack(tmp_path, method, **options)
    model = loaded(tmp_path)
    # A minimum is a scale times a zero point, in 16 bits.
    tolerance = 5e-3 if expected in ("q4_1", "q8_m") else 1e-4
    torch.testing.assert_close(logits(model), logits(reference), rtol=0, atol=tolerance)
    assert formats(model) == {expected}
    assert sum(isinstance(p, PackedParameter) for p in model.parameters()) == 14


@pytest.mark.parametrize(
    ("method", "options", "kind", "growth"),
    [
        ("awq", {"group": 16, "symmetric": False}, "of groups that are no multiples of 32 inputs",
         8),
        ("fp8", {"initializer_range": 1e-6},
         "of 8-bit floats with scales that 16 bits cannot hold", 4),
        ("pack-quantized", {"scale_dtype": torch.float32, "initializer_range": 1e-9},
         "with scales that 16 bits cannot hold", 8),
    ],
)  # fmt: skip
def test_what_has_no_kernel_is_expanded_and_said(
    tmp_path: Path, method: str, options: dict[str, Any], kind: str, growth: int
) -> None:
    reference = save_pack(tmp_path, method, **options)
    lines: list[str] = []
    model = load_model(tmp_path, "float32", torch.device("cpu"), False, lines.append)
    expected = (
        f"14 weights {kind} have no kernel and are expanded to float32, {growth} times as large"
    )
    assert lines == [expected]
    torch.testing.assert_close(logits(model), logits(reference), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quantized by bitsandbytes"),
        ({"quant_method": "hqq"}, "quantized by hqq"),
        ({"load_in_8bit": True}, "quantized by bitsandbytes"),
        ({"quant_method": "gptq", "bits": 5}, "GPTQ weights of 5 bits"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "layout marlin"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "AWQ weights in the layout gemv"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "nvfp4-pack"),
        ({"quant_method": "compressed-tensors", "transform_config": {"a": 1}}, "transforms"),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4"},
            "ModelOpt weights in the format NVFP4",
        ),
        ({"quant_method": "modelopt"}, "ModelOpt weights in the format of each layer"),
        ({"bits": 4}, "quantized by an unnamed method"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, quantization: dict[str, Any], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    with pytest.raises(StoredQuantizationError, match=f"{message}.* use a GGUF file"):
        stored_quantization(tmp_path)
    save_tiny(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = quantization
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnsupported, match=message):
        loaded(tmp_path)


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "compressed-tensors", "config_groups": [1]},
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": None}},
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": [1]}}},
        {"quant_method": "compressed-tensors", "sparsity_config": "none"},
        {"quant_method": "fp8", "weight_block_size": "128"},
        {"quant_method": "fp8", "weight_block_size": 128},
    ],
)
def test_values_of_other_kinds_say_nothing(tmp_path: Path, quantization: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    found = stored_quantization(tmp_path)
    assert found is not None
    assert (found.method, found.squares) == (quantization["quant_method"], (128, 128))


@pytest.mark.parametrize(
    ("method", "name", "change"),
    [
        ("gptq", "g_idx", lambda groups: groups + 100),
        ("gptq", "qweight", lambda words: words[: len(words) // 2]),
        ("gptq", "qweight", lambda words: words.long()),
        ("gptq", "qzeros", lambda words: words.long()),
        ("awq", "qweight", lambda words: words.long()),
        ("pack-quantized", "weight_packed", lambda words: words.long()),
        ("pack-quantized", "weight_shape", lambda shape: shape * 0),
        ("int-quantized", "weight_scale", None),
        ("fp8", "weight_scale_inv", None),
    ],
)
def test_damaged_layers_are_refused_in_one_line(
    tmp_path: Path, method: str, name: str, change: Callable[[torch.Tensor], torch.Tensor] | None
) -> None:
    save_pack(tmp_path, method)
    file, key = tmp_path / "model.safetensors", f"model.layers.0.mlp.up_proj.{name}"
    tensors = load_file(file)
    before = tensors.pop(key)
    if change is not None:
        tensors[key] = change(before)
    save_file(tensors, file)
    with pytest.raises(ModelUnsupported, match=r"packed weights of an unknown layout: [^\n]*$"):
        loaded(tmp_path)


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_scales_that_are_no_numbers_are_named_as_such(tmp_path: Path, kernels: CpuKernels) -> None:
    use_kernels(kernels)
    save_pack(tmp_path, "gptq")
    file, key = tmp_path / "model.safetensors", "model.layers.0.mlp.up_proj.scales"
    tensors = load_file(file)
    tensors[key][0, 0] = float("nan")
    save_file(tensors, file)
    config = EngineConfig(kv_cache_bytes=2**21, threads=1, device="cpu", cpu_kernels=kernels)
    with pytest.raises(ModelUnsupported, match="computes NaN: its weights are damaged"):
        build_engine(tmp_path, config, 1, print)


@pytest.mark.parametrize("quantization", [{}, [1]])
def test_a_quantization_without_a_method_is_one_line(tmp_path: Path, quantization: Any) -> None:
    save_tiny(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = quantization
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnsupported, match=r"cannot be loaded: [^\n]*$"):
        loaded(tmp_path)


def test_a_bias_that_the_architecture_lacks(tmp_path: Path) -> None:
    """AutoGPTQ's files have a bias for every layer, mostly of zeros."""
    save_pack(tmp_path, "gptq")
    file, name = tmp_path / "model.safetensors", "model.layers.0.mlp.up_proj.bias"
    tensors = load_file(file) | {name: torch.zeros(256)}
    save_file(tensors, file)
    loaded(tmp_path)
    tensors[name][3] = 1.0
    save_file(tensors, file)
    with pytest.raises(ModelUnsupported, match=rf"bias that its architecture has not: {name}"):
        loaded(tmp_path)


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    save_pack(tmp_path, "awq", symmetric=False)
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if "1.mlp.up_proj" not in name}
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(ModelUnsupported, match=r"lacks 1 weights .* model\.layers\.1\.mlp\.up"):
        loaded(tmp_path)


def test_old_files_beside_the_configuration(tmp_path: Path) -> None:
    reference = save_pack(tmp_path, "gptq", symmetric=False)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "quantize_config.json").write_text('{"bits": 4, "group_size": 32}')
    torch.testing.assert_close(logits(loaded(tmp_path)), logits(reference), rtol=0, atol=5e-3)
