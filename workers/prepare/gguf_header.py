"""Read the header of a GGUF file: what it says of the model, and where its tensors lie.

The format, all little-endian: "GGUF", version (u32), tensor count and metadata count (u64), the
metadata (key, type, value), the tensors' names, shapes, types and offsets, padding to the
alignment, and the tensors' bytes.
"""

import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

STRING, ARRAY = 8, 9
SCALARS = dict(zip([*range(8), 10, 11, 12], "BbHhIif?Qqd", strict=True))
VERSIONS = (2, 3)
MAX_STRING_BYTES = 64 * 1024 * 1024
MAX_DIMENSIONS = 8
MAX_KEPT = 4096  # numbers of an array that is kept, such as one for each layer


class GGUFError(ValueError):
    """The file is not a GGUF file that can be served; the text says why."""


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor of a file.

    type: of its numbers, as in llama.cpp, in lower case.
    shape: the outermost dimension first. offset: of its bytes in the file.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """The facts of a GGUF file that its preparation needs.

    architecture: llama.cpp's name.
    metadata: single values; arrays of few numbers, outside of the tokenizer, as tuples; of others
        their length.
    entries: where each value, with its key, lies in the file.
    splits: the number of files that the model is split into (0 or 1: it is not split).
    size_bytes: the least size of a file that holds all of its tensors.
    """

    architecture: str
    metadata: dict[str, Any]
    entries: dict[str, slice]
    tensors: tuple[GGUFTensor, ...]
    splits: int
    size_bytes: int

    @property
    def parameters(self) -> int:
        """The number of parameters of all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)


def read_gguf_header(file: Path) -> GGUFHeader:
    """Read the header of `file`. Raises GGUFError if it is malformed or truncated."""
    with file.open("rb") as stream:
        try:
            return _Reader(stream).header()
        except GGUFError:
            raise
        except (struct.error, ValueError, OverflowError, OSError) as error:
            raise GGUFError("is cut short or damaged") from error


class _Reader:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def header(self) -> GGUFHeader:
        if self._stream.read(4) != b"GGUF":
            raise GGUFError("is not a GGUF file")
        version = self._number("I")
        if version not in VERSIONS:
            raise GGUFError(f"has GGUF version {version}; versions 2 and 3 are supported")
        count, num_entries = self._number("Q"), self._number("Q")
        metadata, entries = {}, {}
        for _ in range(num_entries):
            start = self._stream.tell()
            key = self._string()
            keeps = not key.startswith("tokenizer.")
            metadata[key] = self._value(self._number("I"), keeps)
            entries[key] = slice(start, self._stream.tell())
        infos, data_bytes = self._tensors(count)
        alignment = metadata.get("general.alignment") or 32
        splits = metadata.get("split.count") or 0
        if not isinstance(alignment, int) or alignment < 1 or not isinstance(splits, int):
            raise GGUFError("is cut short or damaged")
        start = math.ceil(self._stream.tell() / alignment) * alignment
        return GGUFHeader(
            architecture=str(metadata.get("general.architecture", "")),
            metadata=metadata,
            entries=entries,
            tensors=tuple(replace(info, offset=start + info.offset) for info in infos),
            splits=splits,
            size_bytes=start + data_bytes,
        )

    def _tensors(self, count: int) -> tuple[list[GGUFTensor], int]:
        """Return all tensors with offsets in the data part, and the end of the last one there."""
        from gguf.constants import GGML_QUANT_SIZES

        kinds = {kind.value: (kind.name.lower(), *size) for kind, size in GGML_QUANT_SIZES.items()}
        end = 0
        tensors = []
        for _ in range(count):
            name = self._string()
            dimensions = self._number("I")
            if dimensions > MAX_DIMENSIONS:
                raise GGUFError("is cut short or damaged")
            shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
            kind, offset = self._number("I"), self._number("Q")
            if kind not in kinds:
                raise GGUFError(f"tensor {name[:100]!r} has the unknown type {kind}")
            type_name, block, block_bytes = kinds[kind]
            if shape and shape[-1] % block:
                raise GGUFError(f"tensor {name[:100]!r} has rows of {shape[-1]} {type_name}")
            tensors.append(GGUFTensor(name, type_name, shape, offset))
            end = max(end, offset + math.prod(shape) // block * block_bytes)
        return tensors, end

    def _number(self, kind: str) -> int:
        number = struct.unpack("<" + kind, self._stream.read(struct.calcsize("<" + kind)))[0]
        return int(number)

    def _string(self) -> str:
        return self._bytes().decode("utf-8")

    def _bytes(self) -> bytes:
        length = self._number("Q")
        if length > MAX_STRING_BYTES:
            raise GGUFError("is cut short or damaged")
        value = self._stream.read(length)
        if len(value) < length:
            raise GGUFError("is cut short or damaged")
        return value

    def _value(self, kind: int, keeps: bool) -> Any:
        """Read a metadata value. keeps: whether those of short arrays, too, else their length."""
        if kind == STRING:
            return self._bytes().decode("utf-8", errors="replace")
        if kind == ARRAY:
            return self._array(keeps)
        if kind not in SCALARS:
            raise GGUFError(f"has metadata of the unknown type {kind}")
        form = "<" + SCALARS[kind]
        return struct.unpack(form, self._stream.read(struct.calcsize(form)))[0]

    def _array(self, keeps: bool) -> int | tuple[Any, ...]:
        kind, count = self._number("I"), self._number("Q")
        if kind in SCALARS:
            size = struct.calcsize("<" + SCALARS[kind])
            if keeps and count <= MAX_KEPT:
                return struct.unpack(f"<{count}{SCALARS[kind]}", self._stream.read(count * size))
            self._stream.seek(count * size, 1)
        elif kind == STRING:
            for _ in range(count):
                self._bytes()
        else:
            raise GGUFError(f"has metadata of the unknown array type {kind}")
        return count
