"""GGUF files become folders with their configuration and tokenizer; bad ones are rejected."""

import importlib.util
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.workers.prepare.gguf_header import GGUFError, read_gguf_header
from tests.workers.tiny_gguf import add_tokenizer

HEADS, HEAD_SIZE, HIDDEN, INNER, VOCAB = 2, 16, 32, 64, 260
QUANTIZED = gguf.GGMLQuantizationType.Q8_0


def write_gguf(file: Path, **extra: int) -> dict[str, np.ndarray]:
    """A one-layer Llama with a byte-level vocabulary; returns its tensors, dequantized."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_vocab_size(VOCAB)
    for key, value in extra.items():
        writer.add_uint16(key.replace("__", "."), value)
    add_tokenizer(writer, VOCAB)
    tensors = _add_tensors(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def _add_tensors(writer: gguf.GGUFWriter) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (VOCAB, HIDDEN),
        "output.weight": (VOCAB, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "blk.0.attn_norm.weight": (HIDDEN,),
        "blk.0.ffn_norm.weight": (HIDDEN,),
        "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
        "blk.0.attn_k.weight": (HIDDEN, HIDDEN),
        "blk.0.attn_v.weight": (HIDDEN, HIDDEN),
        "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate.weight": (INNER, HIDDEN),
        "blk.0.ffn_up.weight": (INNER, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, INNER),
    }
    plain = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values)
            plain[name] = values
        else:
            packed = gguf.quantize(values, QUANTIZED)
            writer.add_tensor(name, packed, raw_dtype=QUANTIZED)
            plain[name] = gguf.dequantize(packed, QUANTIZED)
    return plain


def prepare(what: str, source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    output.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "headrace.workers.prepare.prepare", what, str(source), str(output)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def test_a_prepared_file_keeps_its_weights(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    done = prepare("gguf", tmp_path / "tiny.gguf", tmp_path / "model")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""
    assert "\r" not in done.stderr, "a bar where stderr is no terminal"
    assert "tokenizer" in done.stderr
    written = {file.name for file in (tmp_path / "model").iterdir()}
    expected = {"config.json", "generation_config.json", "tokenizer.json", "gguf.json", "facts"}
    assert expected <= written
    assert {file.name for file in (tmp_path / "model" / "facts").iterdir()} == {
        "facts.json",
        "tokenizer.json",
    }
    assert not [name for name in written if name.endswith(".safetensors")]


def test_a_type_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    data = file.read_bytes()
    name = b"blk.0.ffn_down.weight"
    start = data.index(name) + len(name) + struct.calcsize("<IQQ")
    number = struct.pack("<I", gguf.GGMLQuantizationType.I8)
    file.write_bytes(data[:start] + number + data[start + len(number) :])
    done = prepare("gguf", file, tmp_path / "model")
    assert done.returncode != 0
    assert "tensor 'blk.0.ffn_down.weight' has the type i8, which is not read" in done.stdout


def test_its_configuration_is_what_transformers_reads(tmp_path: Path) -> None:
    """Ours is read from a copy without the vocabulary."""
    from transformers import AutoConfig

    write_gguf(tmp_path / "tiny.gguf")
    assert not prepare("gguf", tmp_path / "tiny.gguf", tmp_path / "model").returncode
    ours = json.loads((tmp_path / "model" / "config.json").read_text())
    assert ours.pop("architectures") == ["LlamaForCausalLM"]
    assert ours.pop("dtype") == "float32"
    read = AutoConfig.from_pretrained(tmp_path, gguf_file="tiny.gguf", local_files_only=True)
    theirs = json.loads(read.to_json_string())
    assert ours == {key: value for key, value in theirs.items() if key in ours}
    assert theirs.keys() - ours.keys() <= {"architectures", "dtype"}


def test_a_refused_file_is_one_line_and_status_1(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "short.gguf").write_bytes(whole[:-1000])
    done = prepare("gguf", tmp_path / "short.gguf", tmp_path / "model")
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert "cut short" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_folder_that_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    done = prepare("text", tmp_path, tmp_path / "out")
    assert done.returncode == 1
    assert done.stdout.startswith("transformers cannot read it: ")
    assert "no_such_model" in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    done = prepare("text", tmp_path, tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "no tokenizer in this folder\n")


@pytest.mark.skipif(
    importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece is installed"
)
def test_a_tokenizer_that_needs_another_package_names_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.model").write_bytes(b"")
    done = prepare("text", tmp_path, tmp_path / "out")
    assert done.returncode == 1
    assert "tokenizer.model, which needs: pip install sentencepiece" in done.stdout


def test_the_header_says_what_the_file_holds(tmp_path: Path) -> None:
    tensors = write_gguf(tmp_path / "tiny.gguf", split__count=3)
    header = read_gguf_header(tmp_path / "tiny.gguf")
    assert header.architecture == "llama"
    assert header.parameters == sum(values.size for values in tensors.values())
    assert header.splits == 3
    size = (tmp_path / "tiny.gguf").stat().st_size
    assert size - 32 < header.size_bytes <= size
    assert header.metadata["llama.block_count"] == 1
    assert header.metadata["tokenizer.ggml.tokens"] == VOCAB
    data = (tmp_path / "tiny.gguf").read_bytes()
    for tensor in header.tensors:
        assert tensor.shape == tensors[tensor.name].shape
        if tensor.type == "f32":
            numbers = np.frombuffer(data, np.float32, tensors[tensor.name].size, tensor.offset)
            np.testing.assert_array_equal(numbers, tensors[tensor.name])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not a GGUF"),
        (b"PK\x03\x04", "not a GGUF"),
        (b"GGUF", "cut short"),
        (b"GGUF\x01\x00\x00\x00" + bytes(16), "version 1"),
        (b"GGUF\x00\x00\x00\x03" + bytes(16), "version"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 16, "cut short"),
    ],
)
def test_what_is_no_gguf_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(GGUFError, match=complaint):
        read_gguf_header(tmp_path / "bad.gguf")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(file)
    return file.read_bytes()[:9000]


@settings(max_examples=200, deadline=None)
@given(
    at=st.integers(0, 8999),
    change=st.binary(min_size=1, max_size=12),
    cut=st.integers(0, 9000),
)
def test_no_damage_to_a_header_crashes_the_reader(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, at: int, change: bytes, cut: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.gguf"
    file.write_bytes((head[:at] + change + head[at + len(change) :])[:cut])
    try:
        header = read_gguf_header(file)
    except GGUFError:
        return
    assert header.parameters >= 0
