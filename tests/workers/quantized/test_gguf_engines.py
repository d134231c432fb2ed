"""What engines do with a model of safetensors, they do with one in a GGUF file."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.protocol.calls import ALL_MEMORY
from headrace.protocol.config import CpuKernels, EngineConfig
from headrace.workers.build import build_engine, build_runner
from headrace.workers.engine.engine import Engine
from headrace.workers.errors import ModelUnsupported
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.native.weight_format import UNUSED_QUANTIZATION
from headrace.workers.prepare.gguf_folder import write_gguf_folder
from headrace.workers.process.engine_memory import EngineMemory
from tests.lora_adapters import make_adapter
from tests.workers.driving import request, run
from tests.workers.native.test_shared_file import needs_huge_pages
from tests.workers.processors import KERNELS, needs_kernels, use_kernels
from tests.workers.tiny_gguf import save_tiny_gguf

ANY_KERNELS = ["torch", *KERNELS]
PROMPT = [1, 5, 9, 200, 7]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model as "model", in a GGUF file, and the same one "expanded".

    Its weights are 16-bit floats: with others the kernels round rows, which the expanded do not.
    """
    folder = tmp_path_factory.mktemp("gguf")
    save_tiny_gguf(folder / "tiny.gguf", "llama", "f16").save_pretrained(folder / "expanded")
    (folder / "model").mkdir()
    write_gguf_folder(folder / "tiny.gguf", folder / "model")
    return folder


def config(kernels: str, **options: Any) -> EngineConfig:
    defaults = {"dtype": "float32", "device": "cpu", "kv_cache_bytes": 2**21, "threads": 1}
    return EngineConfig(**{**defaults, "cpu_kernels": kernels, **options})


def tokens(engine: Engine, adapter: str = "") -> list[int]:
    asked = replace(request("r", PROMPT), adapter=adapter)
    return run(engine, [(0, asked)])["r"].tokens


@pytest.mark.parametrize("kernels", ANY_KERNELS)
def test_adapters(folders: Path, tmp_path: Path, kernels: CpuKernels) -> None:
    use_kernels(kernels)
    adapter = make_adapter(tmp_path / "adapter", folders / "expanded", targets="all-linear")
    answers = []
    for name in ("model", "expanded"):
        engine = build_engine(folders / name, config(kernels, enable_lora=True), 1, print)
        engine.add_adapter("a", adapter)
        answers.append((tokens(engine), tokens(engine, "a")))
    assert answers[0] == answers[1]
    assert answers[0][0] != answers[0][1]


@pytest.mark.parametrize("kernels", [KERNELS[0], "torch"])
@pytest.mark.parametrize("level", [1, 2])
def test_sleep(folders: Path, kernels: CpuKernels, level: int) -> None:
    use_kernels(kernels)
    settings = config(kernels)
    engine = build_engine(folders / "model", settings, 1, print)
    memory = EngineMemory(engine, lambda: build_runner(folders / "model", settings, 1, print))
    before = tokens(engine)
    memory.sleep(level)
    memory.wake(ALL_MEMORY)
    assert tokens(engine) == before


def test_a_file_that_changes_while_its_model_sleeps(tmp_path: Path) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "llama")
    (tmp_path / "model").mkdir()
    write_gguf_folder(tmp_path / "tiny.gguf", tmp_path / "model")
    settings = config("torch")
    engine = build_engine(tmp_path / "model", settings, 1, print)
    memory = EngineMemory(engine, lambda: build_runner(tmp_path / "model", settings, 1, print))
    memory.sleep(2)
    save_tiny_gguf(tmp_path / "tiny.gguf", "llama", "q4_0")
    with pytest.raises(ModelUnsupported, match="has changed since the start"):
        memory.wake(ALL_MEMORY)
    assert memory.missing


@needs_kernels
@needs_huge_pages
def test_workers_share_packed_weights(folders: Path, shared_file: SharedFile) -> None:
    notes: list[str] = []
    runners = [
        build_runner(folders / "model", config("native"), 1, notes.append, shared_file=shared_file)
        for _ in range(2)
    ]
    kinds = [note.rpartition("of weights")[2] for note in notes if "compiled kernels" in note]
    assert kinds[0].endswith(", shared")
    assert kinds[1].endswith(", shared, packed before")
    assert len(runners) == 2


@needs_kernels
@pytest.mark.parametrize("type_name", ["f16", "q8_0"])
def test_its_program_is_cached(tmp_path: Path, type_name: str) -> None:
    answers = []
    for number in range(2):  # the second file has the same configuration, and other numbers
        save_tiny_gguf(tmp_path / "tiny.gguf", "llama", type_name, seed=number)
        folder = tmp_path / f"model-{number}"
        folder.mkdir()
        write_gguf_folder(tmp_path / "tiny.gguf", folder)
        for is_cached in (False, True):
            lines: list[str] = []
            gc.collect()
            gc.disable()  # what is left until a collection, a worker keeps for long
            engine = build_engine(
                folder, config("native"), 1, lines.append, cache_folder=tmp_path / "cache"
            )
            gc.enable()
            assert any("program from the cache" in line for line in lines) == is_cached, lines
            assert str(tmp_path / "tiny.gguf") not in Path("/proc/self/maps").read_text()
            answers.append(tokens(engine))
    assert answers[0] == answers[1] != answers[2] == answers[3]


@needs_kernels
@pytest.mark.parametrize(("type_name", "formats"), [("f16", "q4_0, q8_0"), ("q5_1", "q5_1")])
def test_quantization_is_for_weights_that_are_floats(
    tmp_path: Path, type_name: str, formats: str
) -> None:
    """The head has 8 bits where others have 4. Blocks of the file stay as they are."""
    save_tiny_gguf(tmp_path / "tiny.gguf", "llama", type_name)
    (tmp_path / "model").mkdir()
    write_gguf_folder(tmp_path / "tiny.gguf", tmp_path / "model")
    lines: list[str] = []
    settings = config("native", quantization="q4_0")
    engine = build_engine(tmp_path / "model", settings, 1, lines.append)
    assert len(tokens(engine)) == 8
    (named,) = [line.partition("weights in ")[2] for line in lines if "weights in " in line]
    assert sorted(named.removesuffix(", not shared").split(", ")) == formats.split(", ")


@pytest.mark.parametrize("kernels", ["torch", pytest.param("native", marks=needs_kernels)])
@pytest.mark.parametrize("quantization", ["q4_0", "int8"])
def test_blocks_stay_whatever_is_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kernels: CpuKernels, quantization: str
) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "llama", "q5_1")
    (tmp_path / "model").mkdir()
    write_gguf_folder(tmp_path / "tiny.gguf", tmp_path / "model")
    answers, notes = [], []
    for options in ({}, {"quantization": quantization}):
        lines: list[str] = []
        settings = config(kernels, dtype="bfloat16", **options)
        answers.append(tokens(build_engine(tmp_path / "model", settings, 1, lines.append)))
        notes.append([line for line in lines if "changes nothing" in line])
    assert answers[0] == answers[1]
    assert notes == [[], [UNUSED_QUANTIZATION.format(quantization)]]
    assert not caplog.records  # nothing is slower for it
