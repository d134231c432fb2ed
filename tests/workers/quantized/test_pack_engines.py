"""What engines do with a model of floats, they do with one whose safetensors are packed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.protocol.config import CpuKernels, EngineConfig
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.build import build_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.shared_file import SharedFile
from tests.lora_adapters import make_adapter
from tests.workers.driving import request, run
from tests.workers.native.test_native import blocks_of, reference
from tests.workers.native.test_native import run as run_program
from tests.workers.native.test_shared_file import needs_huge_pages
from tests.workers.processors import needs_kernels, on_each_set
from tests.workers.quantized.test_packs import PACKS, loaded
from tests.workers.tiny_packs import save_pack


def engine_of(folder: Path, lines: list[str], **options: Any) -> Engine:
    defaults = {"dtype": "auto", "device": "cpu", "kv_cache_bytes": 2**21, "threads": 1}
    chosen = {key: options.pop(key) for key in ("shared_file", "cache_folder") if key in options}
    return build_engine(folder, EngineConfig(**{**defaults, **options}), 1, lines.append, **chosen)


def tokens(engine: Engine, adapter: str = "") -> list[int]:
    return run(engine, [(0, replace(request("r", [1, 5, 9, 120, 7]), adapter=adapter))])["r"].tokens


@needs_kernels
@on_each_set
@pytest.mark.parametrize(
    "name",
    ["w4a16", "gptq in act-order", "gptq in several act-orders", "gptq of 8 bits with zero points"],
)
def test_programs_compute_what_the_folder_holds(
    tmp_path: Path, name: str, kernel_set: CpuKernels
) -> None:
    method, options, _ = PACKS[name]
    expected = save_pack(tmp_path, method, **options)
    model, hook = loaded(tmp_path), AttentionHook()
    hook.probe(model)
    tokens = [number * 37 % 160 for number in range(40)]
    program = CompiledProgram(model, hook, 2).start(8, 16)
    found = run_program(program, [(tokens, 0, 40, blocks_of(40))])
    difference = (found - reference(expected, tokens)).square().mean().sqrt()
    assert difference / found.std() < 0.04


@needs_kernels
@pytest.mark.parametrize(
    "name",
    ["gptq of 128 inputs", "awq", "w8a16", "gptq in act-order", "gptq of 8 bits with zero points"],
)
def test_kernels_multiply_the_blocks(tmp_path: Path, name: str) -> None:
    """That they compute what transformers does the self-check says; else nothing would start."""
    method, options, expected = PACKS[name]
    save_pack(tmp_path, method, **options)
    lines: list[str] = []
    assert len(tokens(engine_of(tmp_path, lines, cpu_kernels="native"))) == 8
    (named,) = [line for line in lines if "weights in " in line]
    assert sorted(named.split("weights in ")[1].split(", ")[:2]) == ["bfloat16", expected]


@pytest.mark.parametrize("kernels", ["torch", pytest.param("native", marks=needs_kernels)])
def test_float32_is_that_of_the_expanded_model(tmp_path: Path, kernels: str) -> None:
    (tmp_path / "packed").mkdir()
    reference = save_pack(tmp_path / "packed", "gptq")
    reference.save_pretrained(tmp_path / "expanded")
    answers, lines = [], list[str]()
    for name in ("packed", "expanded"):
        engine = engine_of(tmp_path / name, lines, dtype="float32", cpu_kernels=kernels)
        answers.append(tokens(engine))
    assert answers[0] == answers[1]
    assert "14 quantized weights expanded to torch.float32, 7.1 times as large" in lines


@pytest.mark.parametrize("kernels", ["torch", pytest.param("native", marks=needs_kernels)])
def test_adapters(tmp_path: Path, kernels: str) -> None:
    (tmp_path / "packed").mkdir()
    save_pack(tmp_path / "packed", "awq", symmetric=False).save_pretrained(tmp_path / "expanded")
    adapter = make_adapter(tmp_path / "adapter", tmp_path / "expanded", targets="all-linear")
    answers = []
    for name, dtype in (("packed", "bfloat16"), ("expanded", "float32")):
        options = {"dtype": dtype, "cpu_kernels": kernels, "enable_lora": True}
        engine = engine_of(tmp_path / name, [], **options)
        engine.add_adapter("a", adapter)
        answers.append((tokens(engine)[0], tokens(engine, "a")[0]))
    assert answers[0][1] == answers[1][1]
    assert all(without != adapted for without, adapted in answers)


@needs_kernels
@needs_huge_pages
def test_workers_share_packed_weights(tmp_path: Path, shared_file: SharedFile) -> None:
    save_pack(tmp_path, "gptq")
    lines: list[str] = []
    engines = [engine_of(tmp_path, lines, shared_file=shared_file) for _ in range(2)]
    kinds = [line.rpartition("weights in")[2] for line in lines if "compiled kernels" in line]
    assert kinds[0].endswith(", shared")
    assert kinds[1].endswith(", shared, packed before")
    assert len(engines) == 2


@needs_kernels
@pytest.mark.parametrize(
    ("method", "options"),
    [("gptq", {}), ("awq", {"group": 16}), ("gptq", {"act_order": "each", "kind": "Qwen2"})],
)
def test_its_program_is_cached(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    save_pack(tmp_path, method, **options)
    answers = []
    for is_cached in (False, True):
        lines: list[str] = []
        engine = engine_of(tmp_path, lines, cache_folder=tmp_path / "cache")
        assert any("program from the cache" in line for line in lines) == is_cached, lines
        assert any("have no kernel" in line for line in lines) == (options.get("group") == 16)
        answers.append(tokens(engine))
    assert answers[0] == answers[1]
