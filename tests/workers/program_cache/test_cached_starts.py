"""A start from the cache: the same numbers as a fresh capture, and never those of another model."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.protocol.config import CpuKernels, EngineConfig, Quantization
from headrace.workers.attention.backend import AttentionBatch, Span
from headrace.workers.build import build_runner
from headrace.workers.errors import ModelUnsupported
from headrace.workers.lora.adapter_files import read_adapter
from headrace.workers.native.runner import NativeRunner
from headrace.workers.program_cache import key as key_module
from headrace.workers.program_cache import program_file, store
from headrace.workers.program_cache.cached_programs import ProgramCache
from headrace.workers.program_cache.program_file import DamagedProgram, read_program
from headrace.workers.program_cache.weight_files import WeightFiles
from tests.lora_adapters import make_adapter
from tests.workers.processors import needs_kernels, on_slower_sets
from tests.workers.tiny_models import MODELS, VOCAB, save_model, save_tiny

pytestmark = needs_kernels

FROM_CACHE = "program from the cache"
KEPT = "the program is cached for the next start"


class Starts:
    """Starts of one model with one cache."""

    def __init__(self, folder: Path) -> None:
        self.model, self.cache = folder / "model", folder / "cache"
        self.lines: list[str] = []

    @property
    def files(self) -> list[Path]:
        return sorted((self.cache / "programs").glob("*.safetensors"))

    def start(self, **options: Any) -> NativeRunner:
        """Start once more; `lines` are then those that it logged."""
        settings = {"dtype": "float32", "threads": 2, "kv_cache_bytes": 2**20} | options
        self.lines = []
        config = EngineConfig(**settings)
        runner = build_runner(self.model, config, 1, self.lines.append, cache_folder=self.cache)
        assert isinstance(runner, NativeRunner)
        return runner

    @property
    def was_cached(self) -> bool:
        return any(FROM_CACHE in line for line in self.lines)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Starts:
    """A model whose program is in its cache; `lines` are those of the start that made it."""
    kept = Starts(tmp_path_factory.mktemp("kept"))
    save_tiny(kept.model, "llama")
    kept.start()
    return kept


@pytest.fixture
def starts(kept: Starts, tmp_path: Path) -> Starts:
    """Starts of that model, with a cache of their own that has the program."""
    starts = Starts(tmp_path)
    starts.model = kept.model
    shutil.copytree(kept.cache, starts.cache)
    return starts


@torch.inference_mode()
def logits_of(runner: NativeRunner) -> torch.Tensor:
    """Logits of all rows of a text of 40 tokens, in two steps."""
    tokens = torch.randint(VOCAB, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    parts = []
    for start, end in ((0, 33), (33, 40)):
        batch = AttentionBatch([], [Span(0, end - start, start, [2, 0, 1], known=40)])
        rows = range(end - start)
        parts.append(runner.forward(tokens[start:end], range(start, end), rows, batch).clone())
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("qwen2", {}),
        ("gemma3", {}),
        ("gpt2", {}),
        ("gpt_neox", {}),
    ],
)
def test_the_same_numbers_as_a_fresh_capture(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    starts = Starts(tmp_path)
    config, model, own = MODELS[name]
    save_model(starts.model, config, model, own | options)
    fresh = logits_of(starts.start())
    assert KEPT in starts.lines
    cached = logits_of(starts.start())
    assert starts.was_cached, starts.lines
    assert torch.equal(fresh, cached)


def test_frequencies_that_switch_are_kept(tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    config, model, own = MODELS["phi3"]
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0, 2.0, 8.0, 3.0]}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    options = {**own, "rope_parameters": rope, "original_max_position_embeddings": 20}
    save_model(starts.model, config, model, options)
    fresh = starts.start()
    assert KEPT in starts.lines
    cached = starts.start()
    assert starts.was_cached, starts.lines
    assert fresh.switch_length == cached.switch_length == 20
    assert torch.equal(logits_of(fresh), logits_of(cached))


@needs_kernels
@pytest.mark.parametrize("quantization", [None, "int8", "int8_dynamic", "q4_0"])
def test_weights_that_are_rounded_when_they_are_packed(
    starts: Starts, quantization: Quantization | None
) -> None:
    """The files have float32, the model bfloat16: quantizing must start from the latter."""
    options: dict[str, Any] = {"dtype": "bfloat16", "quantization": quantization}
    fresh = logits_of(starts.start(**options))
    cached = logits_of(starts.start(**options))
    assert starts.was_cached, starts.lines
    assert torch.equal(fresh, cached)


@on_slower_sets
def test_each_instruction_set_has_a_program_of_its_own(
    starts: Starts, kernel_set: CpuKernels
) -> None:
    """It was checked on the kernels that run it."""
    fresh = logits_of(starts.start(cpu_kernels=kernel_set))
    assert KEPT in starts.lines
    cached = logits_of(starts.start(cpu_kernels=kernel_set))
    assert starts.was_cached, starts.lines
    assert torch.equal(fresh, cached)
    assert len(starts.files) == 2


def test_a_cached_program_takes_adapters(starts: Starts, tmp_path: Path) -> None:
    make_adapter(tmp_path / "adapter", starts.model, rank=4)
    options: dict[str, Any] = {"enable_lora": True, "max_loras": 2}
    fresh, cached = starts.start(**options), starts.start(**options)
    assert starts.was_cached, starts.lines
    assert fresh.adapter_layers == cached.adapter_layers
    assert len(cached.adapter_layers) == 14
    adapter = read_adapter(tmp_path / "adapter", cached.adapter_layers, 16)
    for one, other in zip(fresh._compiled.adapted, cached._compiled.adapted, strict=True):
        pairs = one.matrices(adapter), other.matrices(adapter)
        assert one.slices == other.slices
        assert pairs[0] is None or all(map(torch.equal, *pairs))  # type: ignore[arg-type]


def test_weights_in_another_form_than_the_files_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers stacks experts that files have one by one: only small ones can be kept."""
    starts = Starts(tmp_path)
    save_tiny(starts.model, "qwen3_moe")
    monkeypatch.setattr(program_file, "_ALL_CONSTANTS_BYTES", 20_000)
    starts.start()
    assert len([line for line in starts.lines if "the program is not cached" in line]) == 1
    assert not starts.files
    monkeypatch.undo()
    fresh = logits_of(starts.start())
    assert KEPT in starts.lines
    assert torch.equal(logits_of(starts.start()), fresh)
    assert starts.was_cached


def test_a_start_from_the_cache_imports_no_transformers(starts: Starts) -> None:
    code = f"""
import os, sys
from pathlib import Path
from types import SimpleNamespace
cache, folder = Path({str(starts.cache)!r}), Path({str(starts.model)!r})
os.environ["HEADRACE_CACHE"] = str(cache)
from headrace.protocol.config import EngineConfig
from headrace.workers.build import build_engine
from headrace.workers.fork_server import _import_all
config = EngineConfig(dtype='float32', threads=2, kv_cache_bytes=2**20)
_import_all(SimpleNamespace(groups=[SimpleNamespace(engine=config, model_path=folder)]))
assert "headrace.workers.native.program" in sys.modules
lines = []
build_engine(folder, config, 1, lines.append, cache_folder=cache)
assert any({FROM_CACHE!r} in line for line in lines), lines
assert 'transformers' not in sys.modules
assert 'torch._decomp' not in sys.modules
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_changed_files_are_captured_anew(tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    save_tiny(starts.model, "llama")
    before = logits_of(starts.start())
    save_model(starts.model, *MODELS["llama"][:2], MODELS["llama"][2] | {"initializer_range": 0.2})
    after = logits_of(starts.start())
    assert not starts.was_cached
    assert KEPT in starts.lines
    assert not torch.equal(before, after)
    config = starts.model / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-01'))
    assert not torch.equal(after, logits_of(starts.start()))
    assert not starts.was_cached
    assert len(starts.files) == 3


@pytest.mark.parametrize(
    ("options", "is_other"),
    [
        ({"max_num_seqs": 3, "max_model_len": 64, "threads": 1}, False),
        ({"block_size": 32}, True),
        ({"enable_lora": True}, True),
        ({"quantization": "q8_0"}, True),
        ({"dtype": "bfloat16"}, True),
    ],
)
def test_options_that_change_the_program(
    starts: Starts, options: dict[str, Any], is_other: bool
) -> None:
    settings = {"dtype": "float32", "kv_cache_bytes": 2**20} | options
    cache = ProgramCache(starts.cache, starts.model, EngineConfig(**settings))
    assert cache.has_program != is_other
    assert (cache.load() is None) == is_other


def test_options_are_checked_as_in_a_fresh_start(starts: Starts) -> None:
    with pytest.raises(ModelUnsupported, match="max_model_len is 129, but the model's limit is 1"):
        starts.start(max_model_len=129)
    with pytest.raises(ModelUnsupported, match="fewer than one request"):
        starts.start(kv_cache_bytes=1000)


@pytest.mark.parametrize("library", ["torch", "transformers", "headrace"])
def test_other_versions_capture_anew(
    starts: Starts, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def newer(name: str) -> str:
        return "99" if name == library else version(name)

    if library == "headrace":
        monkeypatch.setattr(key_module, "_code_digest", lambda: "other code")
    else:
        monkeypatch.setattr(importlib.metadata, "version", newer)
    config = EngineConfig(dtype="float32", kv_cache_bytes=2**20)
    assert ProgramCache(starts.cache, starts.model, config).load() is None
    monkeypatch.undo()
    assert ProgramCache(starts.cache, starts.model, config).load() is not None


def damages(data: bytes) -> Iterator[bytes]:
    place = data.index(b"vocab_size")
    yield b""
    yield data[: len(data) // 2]
    yield data[:place] + b"vocab_sizf" + data[place + 10 :]
    yield data[:-1] + bytes([data[-1] ^ 1])  # a constant
    yield b"\xff" * 64


def test_each_damage_is_found(starts: Starts) -> None:
    data = starts.files[0].read_bytes()
    files = WeightFiles(starts.model)
    read_program(data, files)
    for damaged in damages(data):
        with pytest.raises(DamagedProgram):
            read_program(damaged, files)


def test_a_damaged_file_is_told_and_made_anew(starts: Starts) -> None:
    expected = logits_of(starts.start())
    (file,) = starts.files
    file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(logits_of(starts.start()), expected)
    assert not starts.was_cached
    assert len([line for line in starts.lines if "is not used, and made anew" in line]) == 1
    starts.start()
    assert starts.was_cached


def test_a_file_that_others_may_write_is_not_read(starts: Starts, tmp_path: Path) -> None:
    programs = store.ProgramStore(starts.cache / "programs")
    (file,) = starts.files
    programs.save("own", b"text")
    assert (starts.cache / "programs" / "own.safetensors").stat().st_mode & 0o777 == 0o600
    file.chmod(0o666)
    with pytest.raises(OSError, match="may be written by others"):
        programs.load(file.stem)
    moved = file.rename(tmp_path / "moved")
    moved.chmod(0o600)
    file.symlink_to(moved)
    with pytest.raises(OSError, match="symbolic links"):
        programs.load(file.stem)


def test_a_cache_that_cannot_be_written_is_told(starts: Starts) -> None:
    shutil.rmtree(starts.cache)
    starts.cache.write_text("no folder")
    starts.start()
    assert any("the program is not cached" in line for line in starts.lines)


def test_the_oldest_files_go(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_MOST_FILES", 2)
    programs = store.ProgramStore(starts.cache)
    left = starts.cache / "part-left"
    for number, name in enumerate("abc"):
        programs.save(name, name.encode())
        if number == 0:
            left.touch()
            os.utime(left, (1, 1))
        os.utime(starts.cache / f"{name}.safetensors", (number + 10, number + 10))
        programs.load("a")  # used last
    assert [name for name in "abc" if programs.load(name) is not None] == ["a", "c"]
    assert not left.exists()


def test_starts_at_once_leave_a_whole_file(starts: Starts) -> None:
    folder = store.ProgramStore(starts.cache)
    contents = [bytes([number]) * 1_000_000 for number in range(4)]
    stop = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not stop.is_set():
            data = folder.load("key")
            if data is not None:
                seen.append(data[:1] * len(data))
                assert data == seen[-1]

    reader = threading.Thread(target=read)
    reader.start()
    writers = [threading.Thread(target=folder.save, args=("key", each)) for each in contents * 5]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    reader.join()
    assert folder.load("key") in contents
    assert all(len(data) == 1_000_000 for data in seen)


def test_models_with_code_of_their_own_are_not_cached(kept: Starts, tmp_path: Path) -> None:
    shutil.copytree(kept.model, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    assert key_module.program_key(tmp_path / "model", EngineConfig()) is not None
    config.write_text(config.read_text().replace("{", '{"auto_map": {},', 1))
    assert key_module.program_key(tmp_path / "model", EngineConfig()) is not None
    trusting = EngineConfig(trust_remote_code=True)
    assert key_module.program_key(tmp_path / "model", trusting) is None
