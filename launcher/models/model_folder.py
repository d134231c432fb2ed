"""Checks of a model folder in Hugging Face layout, before any process is started with it."""

import json
import struct
from pathlib import Path
from typing import Any

from headrace.protocol.common.gguf_reference import GGUFFilesError, check_files, read_reference
from headrace.protocol.common.plausible_sizes import implausible_size
from headrace.protocol.common.stored_quantization import (
    StoredQuantizationError,
    stored_quantization,
)

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # the limit that the safetensors format itself sets


class ModelError(Exception):
    """A model cannot be served. The text is one line for the operator."""


def check_folder(folder: Path) -> None:
    """Check that a folder holds a configuration, and complete weights or a reference to them, in a
    format that can be read.

    Raises ModelError if it does not.
    """
    config = read_json_object(folder / "config.json", required=True)
    try:
        reference = read_reference(folder)
        if reference is not None:
            return check_files(reference[0])
        stored_quantization(folder)
    except (GGUFFilesError, StoredQuantizationError) as error:
        raise ModelError(str(error)) from error
    files = _weight_files(folder)
    for file in files:
        _check_weights(file)
    reason = implausible_size(config, sum(file.stat().st_size for file in files))
    if reason:
        raise ModelError(f"{folder / 'config.json'}: {reason}")


def read_json_object(file: Path, required: bool = False) -> dict[str, Any]:
    """Return the JSON object in a file; {} if it does not exist and is not required.

    Raises ModelError if the file does not hold a JSON object.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        if required:
            raise ModelError(f"{file.parent}: no {file.name} in this folder") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: cannot be read: {error}") from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file}: is not a JSON object")
    return value


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers would load: the only one, or the indexed."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _indexed_files(folder)
    others = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.gguf"))
    hint = f" (there is {others[0].name})" if others else ""
    raise ModelError(f"{folder}: no {WEIGHTS} and no {INDEX} in this folder{hint}")


def _indexed_files(folder: Path) -> list[Path]:
    weight_map = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{folder / INDEX}: has no weight_map")
    files = []
    for name in sorted({str(value) for value in weight_map.values()}):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{folder / INDEX}: {name!r} is not a safetensors file of this folder")
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {name} is missing, though {INDEX} names it")
        files.append(folder / name)
    return files


def _check_weights(file: Path) -> None:
    """Compare a safetensors file's header with its size: a download may have been cut short."""
    with file.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            raise ModelError(f"{file}: is a git-lfs pointer, not the weights: run `git lfs pull`")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER_BYTES + 1
        header = stream.read(length) if length <= MAX_HEADER_BYTES else b""
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
        expected = 8 + length + max(ends, default=0)
    except (
        ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, MemoryError,
    ) as error:  # fmt: skip
        raise ModelError(f"{file}: is not a safetensors file, or is cut short") from error
    if file.stat().st_size != expected:
        raise ModelError(f"{file}: {file.stat().st_size} bytes, but should have {expected}")
