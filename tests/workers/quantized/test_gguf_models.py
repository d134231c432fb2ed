"""A model is served from a GGUF file's bytes, and computes what the model in the file computes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.protocol.config import CpuKernels, EngineConfig
from headrace.workers.build import build_engine
from headrace.workers.errors import ModelUnsupported
from headrace.workers.native.weight_memory import fingerprint_weights
from headrace.workers.prepare.gguf_folder import write_gguf_folder
from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.quantized.parameter import (
    PackedParameter,
    expand_parameters,
    products_skipped,
)
from headrace.workers.torch_runner.gguf_loading import load_gguf_model
from headrace.workers.torch_runner.loading import load_model
from tests.workers.driving import request, run
from tests.workers.processors import KERNELS, needs_kernels, on_each_set, use_kernels
from tests.workers.tiny_gguf import MODELS, save_tiny_gguf

CACHE = 8 * 1024 * 1024
WIDE = {"hidden_size": 256, "num_attention_heads": 16, "num_key_value_heads": 16}
IDS = torch.tensor([[1, 5, 9, 200, 7, 7, 31]])


def prepared(folder: Path, name: str, type_name: str = "q8_0", **options: Any) -> Any:
    """Write a tiny GGUF and its prepared folder "model"; return the model that is in it."""
    reference = save_tiny_gguf(folder / "tiny.gguf", name, type_name, **options)
    (folder / "model").mkdir()
    write_gguf_folder(folder / "tiny.gguf", folder / "model")
    return reference


def loaded(folder: Path, reference: Any, dtype: torch.dtype = torch.float32) -> Any:
    model: Any = load_gguf_model(folder / "model", type(reference), dtype)
    return model.eval()


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_computes_what_its_file_holds(tmp_path: Path, name: str) -> None:
    reference = prepared(tmp_path, name)
    model = loaded(tmp_path, reference)
    torch.testing.assert_close(logits(model), logits(reference), rtol=1e-4, atol=1e-4)
    packed = [p for p in model.parameters() if isinstance(p, PackedParameter)]
    assert len(packed) > 2 or name == "gpt2"
    assert sum(p.untyped_storage().nbytes() for p in packed) <= 4 * len(packed)


def test_formats_without_kernels_are_told(tmp_path: Path) -> None:
    reference = prepared(tmp_path, "llama", "tq2_0", intermediate_size=256, **WIDE)
    lines: list[str] = []
    model = load_model(
        tmp_path / "model", "float32", torch.device("cpu"), trusts_code=False, log=lines.append
    )
    assert lines == [
        "16 weights in tq2_0 have no kernel and are expanded to float32, 16 times as large"
    ]
    torch.testing.assert_close(logits(model), logits(reference), rtol=1e-4, atol=1e-4)


def test_weights_that_cannot_be_read_end_the_start_in_one_line(tmp_path: Path) -> None:
    prepared(tmp_path, "llama")
    reference = tmp_path / "model" / "gguf.json"
    value = json.loads(reference.read_text())
    value["tensors"][3]["type"] = "q1_0"
    reference.write_text(json.dumps(value))
    with pytest.raises(ModelUnsupported, match=r"tiny\.gguf cannot be read: [^\n]*$"):
        load_model(tmp_path / "model", "float32", torch.device("cpu"))


@needs_kernels
def test_stretched_rotary_embeddings(tmp_path: Path) -> None:
    """As Llama 3.1's, which llama.cpp writes as a tensor of factors."""
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    reference = prepared(tmp_path, "llama", rope_parameters=rope)
    model = loaded(tmp_path, reference)
    frequencies = model.model.rotary_emb.inv_freq
    torch.testing.assert_close(frequencies, reference.model.rotary_emb.inv_freq)
    torch.testing.assert_close(logits(model), logits(reference), rtol=1e-4, atol=1e-4)
    lines: list[str] = []
    config = EngineConfig(kv_cache_bytes=CACHE, dtype="float32")
    build_engine(tmp_path / "model", config, 1, lines.append)
    assert any(line.startswith("compiled kernels") for line in lines), lines


@pytest.mark.parametrize("type_name", ["f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1"])
def test_every_format_is_read(tmp_path: Path, type_name: str) -> None:
    reference = prepared(tmp_path, "llama", type_name)
    torch.testing.assert_close(
        logits(loaded(tmp_path, reference)), logits(reference), rtol=1e-4, atol=1e-4
    )


def test_a_format_that_only_the_gguf_package_reads_is_expanded(tmp_path: Path) -> None:
    size = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 16}
    reference = prepared(tmp_path, "llama", "tq2_0", num_key_value_heads=16, head_dim=16, **size)
    model = loaded(tmp_path, reference)
    assert not any(isinstance(p, PackedParameter) for p in model.parameters())
    torch.testing.assert_close(logits(model), logits(reference), rtol=1e-4, atol=1e-4)


def test_weights_can_be_expanded_and_products_skipped(tmp_path: Path) -> None:
    reference = prepared(tmp_path, "qwen2")
    model = loaded(tmp_path, reference)
    before = logits(model)
    with products_skipped():
        assert not logits(model).any()
    number, growth = expand_parameters(model)
    assert number == 16  # seven of each layer, the embedding and the head
    assert growth == pytest.approx(32 / 8.5)  # float32 to q8_0
    assert not any(isinstance(p, PackedParameter) for p in model.parameters())
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)


def test_files_of_a_split_model_are_one(tmp_path: Path) -> None:
    reference = save_tiny_gguf(tmp_path / "tiny.gguf", "qwen2", split_tensors=11)
    parts = sorted(tmp_path.glob("tiny-*.gguf"))
    assert len(parts) > 2
    (tmp_path / "model").mkdir()
    write_gguf_folder(parts[1], tmp_path / "model")  # any of them stands for all
    torch.testing.assert_close(
        logits(loaded(tmp_path, reference)), logits(reference), rtol=1e-4, atol=1e-4
    )
    parts[0].rename(tmp_path / "other.gguf")
    with pytest.raises(GGUFError, match=r"one of \d parts of a split GGUF, which must be named"):
        write_gguf_folder(tmp_path / "other.gguf", tmp_path / "model")


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    reference = prepared(tmp_path, "llama")
    before = fingerprint_weights(tmp_path / "model")
    file = tmp_path / "tiny.gguf"
    shutil.copy(file, tmp_path / "copy")
    (tmp_path / "copy").rename(file)
    assert fingerprint_weights(tmp_path / "model") != before
    with pytest.raises(ModelUnsupported, match=r"tiny\.gguf: has changed since the start"):
        loaded(tmp_path, reference)
    file.unlink()
    with pytest.raises(ModelUnsupported, match=r"tiny\.gguf: No such file"):
        loaded(tmp_path, reference)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    reference = prepared(tmp_path, "llama")
    config = tmp_path / "model" / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    with pytest.raises(ModelUnsupported, match=r"lacks 9 weights .* model\.layers\.2\."):
        loaded(tmp_path, reference)


def tokens(folder: Path, **options: Any) -> tuple[list[int], list[str], Any]:
    lines: list[str] = []
    config = EngineConfig(
        **{"dtype": "float32", "device": "cpu", "kv_cache_bytes": CACHE, "threads": 1, **options}
    )
    engine = build_engine(folder, config, 1, lines.append)
    return run(engine, [(0, request("r", [1, 5, 9, 200, 7]))])["r"].tokens, lines, engine


ANY_KERNELS = ["torch", *KERNELS]


@pytest.mark.parametrize("kernels", ANY_KERNELS)
@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}], ids=["", "tied"])
def test_an_engine_generates_what_the_expanded_model_does(
    tmp_path: Path, kernels: CpuKernels, options: dict[str, Any]
) -> None:
    use_kernels(kernels)
    reference = prepared(tmp_path, "qwen2", "f16", **options)
    reference.save_pretrained(tmp_path / "expanded")
    generated, lines, engine = tokens(tmp_path / "model", cpu_kernels=kernels)
    assert generated == tokens(tmp_path / "expanded", cpu_kernels=kernels)[0]
    assert any("expanded to" in line for line in lines) == (kernels == "torch")
    maps = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "tiny.gguf") not in maps, "the file is still mapped"
    del engine


@on_each_set
@pytest.mark.parametrize("type_name", ["q8_0", "q4_0", "q5_1"])
@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}], ids=["", "tied"])
def test_kernels_multiply_the_blocks_of_the_file(
    tmp_path: Path, type_name: str, options: dict[str, Any], kernel_set: CpuKernels
) -> None:
    """That they compute what transformers does the self-check says; else nothing would start."""
    prepared(tmp_path, "llama", type_name, **options)
    generated, lines, _ = tokens(tmp_path / "model", cpu_kernels=kernel_set, dtype="bfloat16")
    assert len(generated) == 8
    assert [f"weights in {type_name}, not shared" in line for line in lines].count(True) == 1
    assert str(tmp_path / "tiny.gguf") not in Path("/proc/self/maps").read_text()


@needs_kernels
def test_blocks_are_expanded_if_float32_is_asked_for(tmp_path: Path) -> None:
    prepared(tmp_path, "llama", "q8_0").save_pretrained(tmp_path / "expanded")
    generated, lines, _ = tokens(tmp_path / "model", cpu_kernels="native", dtype="float32")
    assert any("expanded to torch.float32" in line for line in lines)
    assert any("weights in float32" in line for line in lines)
    assert generated == tokens(tmp_path / "expanded", cpu_kernels="native")[0]


@needs_kernels
def test_experts_are_expanded_for_their_kernels(tmp_path: Path) -> None:
    reference = prepared(tmp_path, "qwen3moe", "f16")
    reference.save_pretrained(tmp_path / "expanded")
    generated = tokens(tmp_path / "model", cpu_kernels="native")[0]
    assert generated == tokens(tmp_path / "expanded", cpu_kernels="native")[0]
