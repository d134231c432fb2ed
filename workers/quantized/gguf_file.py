"""Read a model's tensors from the GGUF files that a prepared folder refers to.

Most weights stay in the file's bytes, which are mapped: as `QuantizedTensor`. What llama.cpp
changed when the file was made is undone here: rows are reordered, which leaves their blocks as they
are, and the rest is expanded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.protocol.common.gguf_reference import GGUFFilesError, check_files, read_reference
from headrace.workers.quantized.converted_rows import Bytes
from headrace.workers.quantized.expanded_weights import ExpandedWeights
from headrace.workers.quantized.formats import BLOCK_FORMATS, FLOAT_FORMATS
from headrace.workers.quantized.row_orders import positions_in_file
from headrace.workers.quantized.stack import QuantizedStack, stack_matrices
from headrace.workers.quantized.tensor import QuantizedTensor, row_bytes

_LATENT = ("latent_keys", "latent_values")

Weight = QuantizedTensor | QuantizedStack | torch.Tensor


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a tensor of a model lies, and what is to be undone.

    name: in the model. type, shape, offset: of the tensor in the file of that number.
    rows, columns: the orders in which llama.cpp has them (see row_orders).
    added: what must be added to each number. transposed: whether the model has it transposed.
    log_negated: whether the model has logarithms of the negated numbers.
    view: the model's shape, of a tensor that it needs as plain numbers.
    position: among the tensors that are joined by rows.
    interleaved: whether those halves take turns in the model's tensor.
    part: of experts: "gate" or "up", the first or second half of each expert's rows in the model's
        tensor, or "down"; of DeepSeek's attention: "latent_keys" or "latent_values".
    value: the number itself, if it lies in the file's metadata.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    file: int
    offset: int
    rows: Sequence[Any] | None = None
    columns: Sequence[Any] | None = None
    added: float = 0.0
    transposed: bool = False
    log_negated: bool = False
    view: Sequence[int] | None = None
    position: int = 0
    interleaved: bool = False
    part: str | None = None
    value: float | None = None


class GGUFWeights:
    """The tensors of a prepared folder by the model's names.

    paths: of the files.

    Raises OSError if a file cannot be read, GGUFFilesError if they are not those that were
    prepared.
    """

    def __init__(self, folder: Path) -> None:
        reference = read_reference(folder)
        if reference is None:
            raise GGUFFilesError(f"{folder} refers to no GGUF file")
        stamps, entries = reference
        check_files(stamps)
        self.paths = [Path(stamp.path) for stamp in stamps]
        self._places: dict[str, list[TensorPlace]] = {}
        for entry in entries:
            place = TensorPlace(**entry)
            self._places.setdefault(place.name, []).append(place)
        self._files: list[Bytes] = [np.memmap(path, np.uint8, "r") for path in self.paths]
        self._expanded_weights = ExpandedWeights()

    @property
    def names(self) -> set[str]:
        return set(self._places)

    def notes(self, dtype: torch.dtype) -> Iterator[str]:
        """Yield a line for each kind of weights that were expanded so far."""
        yield from self._expanded_weights.notes(dtype)

    def read(self, name: str, dtype: torch.dtype) -> Weight:
        """Return a tensor: a matrix in the file's bytes where they can be read by rows, also those
        of experts.

        dtype: of other tensors.
        """
        places = sorted(self._places[name], key=lambda place: place.position)
        place = places[0]
        if place.value is not None:
            return torch.full(tuple(place.view or ()), place.value, dtype=dtype)
        if place.part in _LATENT:
            return self._latent(places).to(dtype)
        if place.part is not None:
            return self._read_experts(places, dtype)
        packed = self._joined(places)
        is_plain = place.view is not None or len(place.shape) < 2
        if packed is None or is_plain or place.transposed or place.added:
            if not is_plain or packed is None:
                self._count(places, f"in {place.type}")
            return self._plain(places, packed).to(dtype)
        return packed

    def _read_experts(self, places: list[TensorPlace], dtype: torch.dtype) -> Weight:
        stack = self._stack(places)
        if stack is not None:
            return stack
        self._count(places, "of experts, in several formats or such as no kernel reads,")
        if places[0].interleaved or places[0].transposed:
            return self._turned_experts(places, dtype)
        if places[0].part != "down":
            return self._experts(places, dtype)
        values = [each.to(dtype) for each in self._matrices(places[0], dtype)]
        return torch.stack(values)

    def _joined(self, places: list[TensorPlace]) -> QuantizedTensor | None:
        """Return matrices as one, in the model's order; None if their format is not known, or
        they have several."""
        found = [self._packed(place) for place in places]
        packed = [each for each in found if each is not None]
        if len(packed) < len(places) or len({(each.format, each.shape[1]) for each in packed}) > 1:
            return None
        whole = packed[0]
        if len(packed) > 1:
            data = np.concatenate([np.asarray(each.data) for each in packed])
            whole = QuantizedTensor(whole.format, (len(data), whole.shape[1]), data)
        rows, columns = places[0].rows, places[0].columns
        if rows is not None and len(places[0].shape) > 1:
            whole = whole.take(positions_in_file(rows, whole.shape[0]))
        if columns is None:
            return whole
        if whole.is_float:
            return None
        inputs = np.argsort(positions_in_file(columns, whole.shape[1])).astype(np.int32)
        return QuantizedTensor(whole.format, whole.shape, whole.data, inputs)

    def _plain(self, places: list[TensorPlace], packed: QuantizedTensor | None) -> torch.Tensor:
        """Return the numbers as the model has them, float32."""
        place = places[0]
        if packed is None:
            values = torch.cat([self._expanded(each) for each in places])
            if place.rows is not None and values.ndim > 1:
                values = values[torch.from_numpy(positions_in_file(place.rows, len(values)))]
            if place.columns is not None:
                order = positions_in_file(place.columns, values.shape[1])
                values = values[:, torch.from_numpy(order)]
        else:
            rows = sum(each.shape[0] for each in places)
            values = packed.dequantize().view(rows, *place.shape[1:])
        if place.rows is not None and values.ndim == 1:
            values = values[torch.from_numpy(positions_in_file(place.rows, len(values)))]
        values = values + place.added
        if place.log_negated:
            values = torch.log(-values)
        values = values.t().contiguous() if place.transposed else values
        return values if place.view is None else values.reshape(tuple(place.view))

    def _latent(self, places: list[TensorPlace]) -> torch.Tensor:
        """Return the projection of a small vector to each head's keys and values.

        llama.cpp has it apart: keys [heads, small, keys], and values [heads, values, small].
        """
        keys, values = (self._values(place) for place in sorted(places, key=lambda p: p.part or ""))
        return torch.cat([keys.transpose(1, 2), values], 1).flatten(0, 1).contiguous()

    def _values(self, place: TensorPlace) -> torch.Tensor:
        """Return a tensor's numbers as the file has them, float32."""
        packed = self._packed(place)
        return self._expanded(place) if packed is None else packed.dequantize().view(place.shape)

    def _count(self, places: list[TensorPlace], kind: str) -> None:
        """Note that matrices in blocks are expanded."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        for place in places:
            if place.type not in FLOAT_FORMATS:
                numbers, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[place.type.upper()]]
                self._expanded_weights.add(kind, prod(place.shape), num_bytes * 8 / numbers)

    def _bytes(self, place: TensorPlace) -> Bytes:
        """Return the tensor's bytes from its first on, and what follows."""
        return self._files[place.file][place.offset :]

    def _packed(self, place: TensorPlace) -> QuantizedTensor | None:
        """Return a tensor as rows; None if its format is not known."""
        if place.type not in BLOCK_FORMATS and place.type not in FLOAT_FORMATS:
            return None
        inputs = place.shape[-1] if len(place.shape) > 1 else 1
        shape = (prod(place.shape) // inputs, inputs)
        size = row_bytes(place.type, inputs)
        data = self._bytes(place)[: shape[0] * size].reshape(shape[0], size)
        return QuantizedTensor(place.type, shape, data)

    def _expanded(self, place: TensorPlace) -> torch.Tensor:
        """Return a tensor in a format that only the gguf package reads, float32."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize, quant_shape_to_byte_shape

        kind = GGMLQuantizationType[place.type.upper()]
        shape = quant_shape_to_byte_shape(place.shape, kind)
        data = self._bytes(place)[: prod(shape)].reshape(shape)
        return torch.from_numpy(dequantize(data, kind)).view(place.shape)

    def _stack(self, places: list[TensorPlace]) -> QuantizedStack | None:
        """Return experts' matrices in blocks; None if they are not, or in several formats."""
        ordered = sorted(places, key=lambda place: place.part == "up")
        found = [self._packed(place) for place in ordered]
        packed = [each for each in found if each is not None and not each.is_float]
        if len(packed) < len(places) or len({each.format for each in packed}) > 1:
            return None
        count = places[0].shape[0]
        matrices = tuple(zip(*(stack_matrices(each, count) for each in packed), strict=True))
        is_interleaved = places[0].interleaved and len(places) > 1
        return QuantizedStack(matrices, places[0].transposed, is_interleaved)

    def _experts(self, places: list[TensorPlace], dtype: torch.dtype) -> torch.Tensor:
        """Return the experts' gates and partners in one tensor [experts, outputs, inputs]."""
        experts, outputs, inputs = places[0].shape
        joined = torch.empty((experts, 2 * outputs, inputs), dtype=dtype)
        for place in places:
            half = joined[:, outputs:] if place.part == "up" else joined[:, :outputs]
            for expert, rows in enumerate(self._matrices(place, dtype)):
                half[expert] = rows
        return joined

    def _turned_experts(self, places: list[TensorPlace], dtype: torch.dtype) -> torch.Tensor:
        """Return experts' numbers, or biases, expanded; transposed, and gates and partners may
        take turns."""
        parts = []
        for place in sorted(places, key=lambda place: place.part == "up"):
            parts.append(self._values(place).to(dtype))
        is_interleaved = places[0].interleaved
        whole = torch.stack(parts, 2).flatten(1, 2) if is_interleaved else torch.cat(parts, 1)
        return whole.transpose(1, 2).contiguous() if whole.ndim == 3 else whole

    def _matrices(self, place: TensorPlace, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """Yield the matrices of a tensor [matrices, outputs, inputs]."""
        packed, outputs = self._packed(place), place.shape[1]
        if packed is None:
            yield from self._expanded(place)
            return
        for first in range(0, packed.shape[0], outputs):
            yield packed.dequantize(first, outputs, dtype)
