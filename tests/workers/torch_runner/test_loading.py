"""Models that cannot be served are rejected at start, each with a reason; others start."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.protocol.config import Dtype, EngineConfig
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.attention.sdpa import SdpaBackend
from headrace.workers.build import build_engine
from headrace.workers.errors import ModelUnsupported
from headrace.workers.native import compile_model
from headrace.workers.native.graph import NotStatic
from headrace.workers.native.library import choose_kernels, usable_kernels
from headrace.workers.native.program import Program
from headrace.workers.torch_runner import loading, self_check
from headrace.workers.torch_runner.loading import choose_dtype
from tests.workers.driving import request, run
from tests.workers.processors import needs_int8, needs_kernels
from tests.workers.tiny_models import MODELS, save_model, save_tiny

CACHE = 8 * 1024 * 1024


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    save_tiny(tmp_path, "llama")
    return tmp_path


def config(**options: Any) -> EngineConfig:
    defaults = {"dtype": "float32", "device": "cpu", "kv_cache_bytes": CACHE, "threads": 1}
    return EngineConfig(**{**defaults, **options})


def rejection(folder: Path, **options: Any) -> str:
    with pytest.raises(ModelUnsupported) as caught:
        build_engine(folder, config(**options), 1, print)
    assert "\n" not in caught.value.reason
    return caught.value.reason


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_model_starts_and_says_what_it_is(llama: Path) -> None:
    lines: list[str] = []
    engine = build_engine(llama, config(), 1, lines.append)
    assert "LlamaForCausalLM" in lines[0]
    assert "float32" in lines[0]
    assert len(run(engine, [(0, request("r", [1, 2, 3]))])["r"].tokens) == 8


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_dtypes_pass_the_check(tmp_path: Path, dtype: Dtype) -> None:
    for name in MODELS:
        save_tiny(tmp_path / name, name)
        build_engine(tmp_path / name, config(dtype=dtype), 1, print)


@needs_int8
@pytest.mark.parametrize("quantization", ["int8", "int8_dynamic", "q4_0"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2_moe"])
def test_quantized_models_pass_the_check_and_say_so(
    tmp_path: Path, name: str, quantization: str
) -> None:
    save_tiny(tmp_path, name)
    lines: list[str] = []
    options = {"dtype": "bfloat16", "quantization": quantization}
    build_engine(tmp_path, config(**options), 1, lines.append)
    build_engine(tmp_path, config(**options, cpu_kernels="torch"), 1, lines.append)
    notes = [line for line in lines if quantization in line]
    assert len(notes) == 2


def test_distance_biases_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, "BloomConfig", "BloomForCausalLM", {"n_layer": 2, "n_head": 4})
    assert "attention interface" in rejection(tmp_path)


def test_tensors_that_paged_attention_lacks_are_refused() -> None:
    heads = torch.zeros((1, 2, 3, 4))
    with pytest.raises(ModelUnsupported, match="its attention needs bias"):
        AttentionHook()._attend(torch.nn.Module(), heads, heads, heads, None, bias=heads)


def test_the_check_finds_wrong_attention(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = SdpaBackend.attend
    monkeypatch.setattr(
        SdpaBackend, "attend", lambda *args: attend(*args) * (1 if len(args[2]) > 2 else 1.1)
    )
    assert "logits differ" in rejection(llama, cpu_kernels="torch")
    monkeypatch.setattr(self_check, "_EXACT_TOLERANCE", 1.0)
    build_engine(llama, config(cpu_kernels="torch"), 1, print)


@needs_kernels
def test_a_wrong_program_is_left_for_torchs_operations(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(program: Program, *args: Any) -> torch.Tensor:
        memory.append(weakref.ref(program._compiled.memory))
        return right(program, *args) * 1.01

    memory: list[weakref.ref[Any]] = []
    right = Program.forward
    expected = run(build_engine(llama, config(), 1, print), [(0, request("r", [1, 2, 3]))])
    monkeypatch.setattr(Program, "forward", forward)
    lines: list[str] = []
    engine = build_engine(llama, config(), 1, lines.append)
    assert [line for line in lines if "torch's operations: compiled, Llama" in line]
    assert not any(line.startswith("compiled kernels") for line in lines)
    assert memory
    assert all(one() is None for one in memory), "the packed weights are freed"
    found = run(engine, [(0, request("r", [1, 2, 3]))])
    assert found["r"].tokens == expected["r"].tokens


@needs_kernels
def test_a_wrong_program_is_refused_where_it_is_asked_for(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Program.forward
    monkeypatch.setattr(Program, "forward", lambda *args: forward(*args) * 1.01)
    reason = rejection(llama, cpu_kernels="native")
    assert "cpu_kernels is native" in reason
    assert "logits differ" in reason
    build_engine(llama, config(cpu_kernels="torch"), 1, print)


def test_code_of_the_folder_is_refused(llama: Path) -> None:
    (llama / "evil.py").write_text("raise SystemExit('ran')")
    change_config(llama, auto_map={"AutoModelForCausalLM": "evil.Model"})
    assert "auto_map" in rejection(llama)


def test_pickled_weights_are_refused(llama: Path) -> None:
    torch.save({}, llama / "pytorch_model.bin")
    (llama / "model.safetensors").unlink()
    assert "pickle" in rejection(llama)


def test_a_folder_without_weights_is_refused(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    assert "no weights" in rejection(llama)


@pytest.mark.parametrize("names", [["NoSuchModel"], ["BertModel"], ["os"], [], None, "Llama", [1]])
def test_unknown_architectures_are_refused(llama: Path, names: list[int | str]) -> None:
    change_config(llama, architectures=names)
    assert "architecture" in rejection(llama) or "text generation" in rejection(llama)


@pytest.mark.parametrize("text", ["", "[]", "{", "\0"])
def test_broken_configurations_are_refused(llama: Path, text: str) -> None:
    (llama / "config.json").write_text(text)
    assert "config.json" in rejection(llama)


def test_missing_and_broken_weights_are_refused(llama: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    save_file({key: weights[key] for key in weights if key != name}, llama / "model.safetensors")
    assert "lacks 1 weights" in rejection(llama)
    (llama / "model.safetensors").write_bytes(b"no safetensors")
    assert "cannot be loaded" in rejection(llama)


def test_lengths_beyond_the_model_are_refused(llama: Path) -> None:
    assert "129" in rejection(llama, max_model_len=129)


def test_a_cache_too_small_for_one_request_is_refused(llama: Path) -> None:
    assert "max_model_len 128" in rejection(llama, kv_cache_bytes=1000)


def test_a_cache_just_large_enough_is_taken(llama: Path) -> None:
    token_bytes = 2 * 2 * 8 * 4  # layers, key and value, head_dim of the only head, float32
    assert "max_model_len 128" in rejection(llama, kv_cache_bytes=token_bytes * 128 - 1)
    engine = build_engine(llama, config(kv_cache_bytes=token_bytes * 128), 1, print)
    assert engine.stats().blocks_total == 8


def test_the_cache_is_no_larger_than_needed(llama: Path) -> None:
    engine = build_engine(llama, config(kv_cache_bytes=None, max_num_seqs=3), 2, print)
    assert engine.stats().blocks_total == 3 * 8


def test_dtype_follows_the_checkpoint(llama: Path) -> None:
    weights = llama / "model.safetensors"
    cpu = torch.device("cpu")
    choose_kernels("torch")
    assert choose_dtype("auto", {"dtype": "float16"}, weights, cpu) == torch.float16
    assert choose_dtype("auto", {"torch_dtype": "bfloat16"}, weights, cpu) == torch.bfloat16
    assert choose_dtype("float32", {"dtype": "float16"}, weights, cpu) == torch.float32
    save_file({"a": torch.zeros(1, dtype=torch.float16)}, weights)
    assert choose_dtype("auto", {}, weights, cpu) == torch.float16


@needs_kernels
def test_float32_checkpoints_run_in_bfloat16_where_kernels_of_ours_read_it(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_has_native_bfloat16", lambda device: False)
    weights, cpu = llama / "model.safetensors", torch.device("cpu")
    for kernels in usable_kernels():
        choose_kernels(kernels)
        assert choose_dtype("auto", {"dtype": "float32"}, weights, cpu) == torch.bfloat16
        assert choose_dtype("auto", {"dtype": "float16"}, weights, cpu) == torch.bfloat16
        assert choose_dtype("float16", {"dtype": "float16"}, weights, cpu) == torch.float16
    choose_kernels("torch")
    assert choose_dtype("auto", {"dtype": "float32"}, weights, cpu) == torch.float32


@needs_kernels
def test_float16_checkpoints_run_on_kernels_of_ours(llama: Path) -> None:
    file = llama / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dtype": "float16"}))
    lines: list[str] = []
    build_engine(llama, config(dtype="auto"), 1, lines.append)
    assert "bfloat16 instead of float16, for which there are no kernels" in lines
    assert any(line.startswith("compiled kernels") for line in lines), lines


@needs_kernels
@pytest.mark.parametrize("native", [False, True])
def test_what_has_no_program_runs_in_the_dtype_that_torch_is_faster_in(
    llama: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    def refuse(*args: object) -> None:
        raise NotStatic("it uses aten.nonzero")

    monkeypatch.setattr(compile_model, "CompiledProgram", refuse)
    monkeypatch.setattr(loading, "_has_native_bfloat16", lambda device: native)
    lines: list[str] = []
    build_engine(llama, config(dtype="auto"), 1, lines.append)
    assert ("float32 instead, which is faster without compiled kernels" in lines) is not native
    assert any("LlamaForCausalLM in torch.bfloat16" in line for line in lines)


def test_attention_in_chunks_is_refused(tmp_path: Path) -> None:
    options = {
        "head_dim": 8,
        "intermediate_size_mlp": 64,
        "num_local_experts": 2,
        "num_hidden_layers": 4,
        "layer_types": ["chunked_attention"] * 3 + ["full_attention"],
    }
    save_model(tmp_path, "Llama4TextConfig", "Llama4ForCausalLM", options)
    assert "chunked_attention" in rejection(tmp_path)


def test_rotary_frequencies_that_change_with_length_limit_it(tmp_path: Path) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    save_model(
        tmp_path,
        "Phi3Config",
        "Phi3ForCausalLM",
        {"rope_parameters": rope, "original_max_position_embeddings": 64},
    )
    assert "limit is 64" in rejection(tmp_path, max_model_len=65)
    engine = build_engine(tmp_path, config(), 1, print)
    assert engine.max_len == 64
