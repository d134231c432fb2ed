"""Damaged and hostile folders of models: one line before anything is started, in bounded memory."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.launcher.models.model_folder import ModelError, check_folder


@pytest.fixture
def folder(tmp_path: Path, fake_model: Path) -> Path:
    path = tmp_path / "model"
    shutil.copytree(fake_model, path)
    return path


def with_config(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def with_config_text(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(text)


def with_header(header: bytes, length: int | None = None) -> Callable[[Path], object]:
    size = struct.pack("<Q", len(header) if length is None else length)
    return lambda folder: (folder / "model.safetensors").write_bytes(size + header + bytes(8))


def with_index(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        text = json.dumps({"weight_map": {"a": name}})
        (folder / "model.safetensors.index.json").write_text(text)

    return change


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-2])


_DEEP = 100_000
_ENTRY = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "layers": (with_config(num_hidden_layers=10**12), "num_hidden_layers is 1e"),
    "vocabulary": (with_config(vocab_size=2**40), "vocab_size is 1.09951e"),
    "width": (with_config(hidden_size=10**9), "hidden_size is 1e"),
    "no JSON": (with_config_text("hello"), "config.json"),
    "a list": (with_config_text("[]"), "is not a JSON object"),
    "deep": (with_config_text('{"a":' * _DEEP + "1" + "}" * _DEEP), "config.json"),
    "cut short": (cut, "bytes, but should have"),
    "long header": (with_header(b"{}", 2**62), "is cut short"),
    "deep header": (with_header(b'{"a":' * _DEEP + b"1" + b"}" * _DEEP), "is cut short"),
    "list as header": (with_header(b"[1]"), "is cut short"),
    "far offset": (with_header(_ENTRY.replace(b"8]", b"99999999999]") + b"}"), "should have"),
    "offsets of words": (with_header(_ENTRY.replace(b"8]", b'"8"]') + b"}"), "is cut short"),
    "file outside": (with_index("../other.safetensors"), "is not a safetensors file of this"),
    "file elsewhere": (with_index("/etc/hostname"), "is not a safetensors file of this"),
    "file missing": (with_index("model-2.safetensors"), "model-2.safetensors is missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_folders_are_one_line(folder: Path, name: str) -> None:
    change, reason = BAD[name]
    check_folder(folder)
    change(folder)
    with pytest.raises(ModelError) as caught:
        check_folder(folder)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
