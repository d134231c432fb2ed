"""Checkpoints of 8-bit floats: kernels multiply blocks of integers, all else the file's numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.protocol.common.stored_quantization import (
    StoredQuantizationError,
    stored_quantization,
)
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.errors import ModelUnsupported
from headrace.workers.native.program import CompiledProgram
from tests.workers.native.test_native import blocks_of, reference
from tests.workers.native.test_native import run as run_program
from tests.workers.processors import needs_kernels
from tests.workers.quantized.test_pack_engines import engine_of, tokens
from tests.workers.quantized.test_packs import formats, loaded, logits
from tests.workers.tiny_packs import save_pack

# Method, and what differs: a scale for squares, outputs, or all numbers of a weight.
FLOATS: dict[str, tuple[str, dict[str, Any]]] = {
    "squares": ("fp8", {}),
    "squares that end early": ("fp8", {"intermediate_size": 224}),
    "outputs": ("float-quantized", {"group": -1, "bits": 8}),
    "all": ("modelopt", {}),
    "experts": ("fp8", {"kind": "Qwen3Moe", "num_experts": 4, "num_experts_per_tok": 2,
                        "moe_intermediate_size": 64, "head_dim": 32}),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOATS)
def test_it_computes_with_the_numbers_of_the_folder(tmp_path: Path, name: str) -> None:
    method, options = FLOATS[name]
    expected = save_pack(tmp_path, method, **options)
    model = loaded(tmp_path)
    torch.testing.assert_close(logits(model), logits(expected), rtol=0, atol=1e-5)
    assert formats(model) == {"q8_0"}


@needs_kernels
@pytest.mark.parametrize("name", ["squares", "all", "experts"])
def test_programs_multiply_blocks_of_integers(tmp_path: Path, name: str) -> None:
    """Rows are rounded to 8 bits, as with all blocks."""
    method, options = FLOATS[name]
    expected = save_pack(tmp_path, method, **options)
    model, hook = loaded(tmp_path), AttentionHook()
    hook.probe(model)
    ids = [number * 37 % 160 for number in range(40)]
    program = CompiledProgram(model, hook, 1).start(8, 16)
    found = run_program(program, [(ids, 0, 40, blocks_of(40))])
    difference = (found - reference(expected, ids)).square().mean().sqrt()
    assert difference / found.std() < 0.04


@needs_kernels
def test_a_program_keeps_a_byte_a_weight(tmp_path: Path) -> None:
    save_pack(tmp_path, "fp8")
    lines: list[str] = []
    first = tokens(engine_of(tmp_path, lines, cache_folder=tmp_path / "cache"))
    assert any("weights in bfloat16, q8_0" in line for line in lines), lines
    note = "14 weights of 8-bit floats are for kernels 8-bit integers in blocks of 32; "
    assert any(line.startswith(note) for line in lines)
    lines.clear()
    assert tokens(engine_of(tmp_path, lines, cache_folder=tmp_path / "cache")) == first
    assert any("program from the cache" in line for line in lines)


def test_modelopts_own_file_beside_a_configuration_that_says_nothing(tmp_path: Path) -> None:
    expected = save_pack(tmp_path, "modelopt")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnsupported, match=r"8-bit floats.* no quantization_config"):
        loaded(tmp_path)
    said: dict[str, Any] = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    file = tmp_path / "hf_quant_config.json"
    file.write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": said}))
    torch.testing.assert_close(logits(loaded(tmp_path)), logits(expected), rtol=0, atol=1e-5)
    said["quant_algo"] = "W4A8_AWQ"
    file.write_text(json.dumps({"quantization": said}))
    with pytest.raises(StoredQuantizationError, match="ModelOpt weights in the format W4A8_AWQ"):
        stored_quantization(tmp_path)


def test_a_quantization_of_the_text_alone(tmp_path: Path) -> None:
    inner = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    config: dict[str, Any] = {"thinker_config": {"text_config": {"quantization_config": inner}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StoredQuantizationError, match="NVFP4"):
        stored_quantization(tmp_path)
    config = {"vision_config": {"quantization_config": inner}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert stored_quantization(tmp_path) is None


@pytest.mark.parametrize("size", [32, 96, 256])
def test_scales_for_squares_of_another_size_are_refused(tmp_path: Path, size: int) -> None:
    save_pack(tmp_path, "fp8", quantization={"weight_block_size": [size, size]})
    with pytest.raises(ModelUnsupported, match=f"in squares of {size}"):
        loaded(tmp_path)


def test_weights_without_scales_are_refused(tmp_path: Path) -> None:
    save_pack(tmp_path, "float-quantized", bits=8, group=-1)
    file = tmp_path / "model.safetensors"
    kept = {key: value for key, value in load_file(file).items() if "scale" not in key}
    save_file(kept, file)
    with pytest.raises(ModelUnsupported, match="weight_scale"):
        loaded(tmp_path)
