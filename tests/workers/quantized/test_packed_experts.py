"""Experts are multiplied from the blocks of a file, or from integers that become blocks."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.utils.quantization_config import Mxfp4Config

from headrace.protocol.config import CpuKernels
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.weight_format import WeightFormat
from headrace.workers.prepare.gguf_folder import write_gguf_folder
from headrace.workers.quantized.stack import QuantizedStack, stack_of
from headrace.workers.quantized.stacked_parameter import StackedParameter
from tests.workers.native.test_native import blocks_of, reference
from tests.workers.native.test_native import run as run_program
from tests.workers.processors import needs_kernels, on_each_set
from tests.workers.quantized.test_pack_engines import engine_of, tokens
from tests.workers.quantized.test_packs import loaded, logits
from tests.workers.tiny_gguf import save_tiny_gguf
from tests.workers.tiny_packs import save_mxfp4, save_pack

EXPERTS = {"num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 96}
QWEN3: dict[str, Any] = {"kind": "Qwen3Moe", **EXPERTS, "norm_topk_prob": True, "head_dim": 32}
MIXTRAL: dict[str, Any] = {"kind": "Mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
TEXT = [number * 37 % 160 for number in range(40)]


def stacks(model: Any) -> list[QuantizedStack]:
    packed = (p for p in model.parameters() if isinstance(p, StackedParameter))
    return [stack for stack in map(stack_of, packed) if stack is not None]


def save(folder: Path, name: str) -> Any:
    """Write a model of that name; return it as transformers computes it."""
    model: Any
    if "gguf" in name:
        file = folder.with_suffix(".gguf")
        model = save_tiny_gguf(file, name.split()[0], "q8_0")
        write_gguf_folder(file, folder)
        return model
    if name == "gpt_oss":
        save_mxfp4(folder)
        plain = Mxfp4Config(dequantize=True)
        model = transformers.GptOssForCausalLM.from_pretrained(
            folder, quantization_config=plain, dtype=torch.float32, attn_implementation="eager"
        )
        return model.eval()
    if name == "qwen3_moe":
        return save_pack(folder, "gptq", mixed=True, **QWEN3)
    return save_pack(folder, "pack-quantized", **MIXTRAL)


MODELS = {
    "qwen3_moe": {"q4_0", "q4_1"},
    "mixtral": {"q4_0"},
    "gpt_oss": {"mxfp4"},
    "mixtral gguf": {"q8_0"},
    "gpt-oss gguf": {"q8_0"},
}


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_the_folder_holds(tmp_path: Path, name: str) -> None:
    expected = save(tmp_path, name)
    model = loaded(tmp_path)
    assert {stack.format for stack in stacks(model)} == MODELS[name]
    assert len(stacks(model)) == 4
    torch.testing.assert_close(logits(model), logits(expected), rtol=0, atol=5e-3)


def test_a_gpt_oss_file_without_scaled_positions(tmp_path: Path) -> None:
    """transformers would scale them all the same: its configuration's default does."""
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    file, folder = tmp_path / "model.gguf", tmp_path / "model"
    expected = save_tiny_gguf(file, "gpt-oss", "q8_0", rope_parameters=plain)
    write_gguf_folder(file, folder)
    model = loaded(folder)
    torch.testing.assert_close(logits(model), logits(expected), rtol=0, atol=5e-3)


@needs_kernels
@on_each_set
@pytest.mark.parametrize("name", MODELS)
def test_programs_multiply_the_blocks(tmp_path: Path, name: str, kernel_set: CpuKernels) -> None:
    expected = save(tmp_path, name)
    model, hook = loaded(tmp_path), AttentionHook()
    hook.probe(model)
    compiled = CompiledProgram(model, hook, 2)
    formats = {WeightFormat[each.upper()] for each in MODELS[name]}
    assert formats <= compiled.formats <= formats | {WeightFormat.Q4_0, WeightFormat.FLOAT}
    found = run_program(compiled.start(8, 16), [(TEXT, 0, 40, blocks_of(40))])
    errors = (found - reference(expected, TEXT)).square().mean(1).sqrt() / found.std()
    assert errors.median() < 0.05  # rounding may send a token to another expert


@needs_kernels
@pytest.mark.parametrize(
    "name", ["qwen3_moe", "gpt_oss", "qwen3moe gguf", "mixtral gguf", "gpt-oss gguf"]
)
def test_its_program_is_cached(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save(folder, name)
    answers = []
    for is_cached in (False, True):
        lines: list[str] = []
        engine = engine_of(folder, lines, cache_folder=tmp_path / "cache")
        assert any("program from the cache" in line for line in lines) == is_cached, lines
        assert not any("expanded" in line for line in lines)
        answers.append(tokens(engine))
    assert answers[0] == answers[1]


@needs_kernels
def test_float32_is_that_of_the_expanded_model(tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    save(tmp_path / "packed", "mixtral").save_pretrained(tmp_path / "expanded")
    answers = [
        tokens(engine_of(tmp_path / name, [], dtype="float32")) for name in ("packed", "expanded")
    ]
    assert answers[0] == answers[1]


def test_experts_in_act_order_are_expanded_and_said(tmp_path: Path) -> None:
    expected = save_pack(tmp_path, "gptq", act_order="each", **QWEN3)
    lines: list[str] = []
    model = loaded(tmp_path, log=lines.append)
    assert [line.partition(" have")[0] for line in lines] == [
        "24 weights of experts in act-order, or in several formats,"
    ]
    assert not stacks(model)
    torch.testing.assert_close(logits(model), logits(expected), rtol=0, atol=1e-3)
