"""Write a program's plan as a file, and read it: JSON and small tensors, as safetensors.

Weights are not in the file: it has their names in the model's own files. Nothing of it is executed
but instructions for the kernels, so a file that somebody else may write must not be read; see
headrace.workers.program_cache.store.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from headrace.workers.attention.backend import KVLayerShape
from headrace.workers.lora.adapter_files import LinearShape
from headrace.workers.native.experts.stacked_weights import Layout, StackedWeights
from headrace.workers.native.instructions import Buffer, BufferKind, Lowered, Op, Operand
from headrace.workers.native.plan import ProgramPlan
from headrace.workers.native.position_tables import PositionTables, RotaryTables
from headrace.workers.native.stored_dtype import stand_for
from headrace.workers.program_cache.weight_files import WeightFiles, product_weight

_CONSTANT_BYTES = 1024 * 1024  # of the largest tensor that is kept in the file
_ALL_CONSTANTS_BYTES = 16 * 1024 * 1024
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}
_OP_FIELDS = ("kind", "logit_rows_only", "packed", "numbers")  # plain values

Facts = Mapping[str, Any]


class NotCacheable(Exception):
    """The program cannot be kept in a file; the message says why."""


class DamagedProgram(Exception):
    """The file is damaged, or is not of this model; the message says how."""


def write_program(
    plan: ProgramPlan,
    parameters: Mapping[str, torch.Tensor],
    files: WeightFiles,
    facts: Facts,
    convolutions: Mapping[str, torch.Tensor] | None = None,
) -> bytes:
    """Return a program's file.

    parameters: the model's, by name. facts: values of JSON to keep beside the program.
    convolutions: weights that a program multiplies with in another order than the files have them,
        by name (see `product_weight`).

    Raises NotCacheable if it needs what is neither in the model's files nor small.
    """
    writer = _Writer(parameters, files, convolutions or {})
    program = {
        "facts": dict(facts),
        "dtype": str(plan.dtype),
        "layers": [dataclasses.astuple(layer) for layer in plan.layers],
        "source_layers": [dataclasses.astuple(layer) for layer in plan.source_layers],
        "vocab_size": plan.vocab_size,
        "tables": [writer.position_tables(tables) for tables in plan.tables],
        "lowered": writer.lowered(plan.lowered),
        "adaptable": {name: writer.adaptable(key) for key, name in plan.adaptable.items()},
        "shapes": {
            name: [shape.inputs, shape.outputs, str(shape.dtype)]
            for name, shape in plan.shapes.items()
        },
        "tensors": writer.references,
    }
    text = json.dumps(program, separators=(",", ":"))
    metadata = {"program": text, "digest": _digest(text, writer.constants)}
    return save(writer.constants, metadata)


def read_program(data: bytes, files: WeightFiles) -> tuple[ProgramPlan, Facts]:
    """Return the plan of a file, and the facts. Raises DamagedProgram."""
    try:
        text, constants = _checked(data)
        return _Reader(json.loads(text), constants, files).plan()
    except (
        SafetensorError, LookupError, ValueError, TypeError, AttributeError, RuntimeError,
    ) as error:  # fmt: skip
        raise DamagedProgram(f"{type(error).__name__}: {error}") from error


class _Writer:
    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        files: WeightFiles,
        convolutions: Mapping[str, torch.Tensor],
    ) -> None:
        self.constants: dict[str, torch.Tensor] = {}
        self._constant_bytes = 0
        self.references: list[dict[str, Any]] = []
        self._files = files
        self._names: dict[int, list[str]] = {}  # of a tied weight, several
        for name, parameter in parameters.items():
            self._names.setdefault(id(parameter), []).append(name)
        self._convolutions = {id(weight): name for name, weight in convolutions.items()}
        self._numbers: dict[int, int] = {}  # of references, by the ids of tensors

    def lowered(self, lowered: Lowered) -> dict[str, Any]:
        places = {id(op): place for place, op in enumerate(lowered.ops)}
        return {
            "buffers": [_fields_of(buffer) for buffer in lowered.buffers],
            "ops": [self._op(op) for op in lowered.ops],
            "tables": [[*key, width] for key, width in lowered.tables],
            "num_layers": lowered.num_layers,
            "adapted": [places[id(op)] for op in lowered.adapted],
            "sections": list(lowered.sections),
        }

    def position_tables(self, tables: PositionTables) -> dict[str, Any]:
        if not isinstance(tables, RotaryTables):
            raise NotCacheable(f"{type(tables.module).__name__} is no plain rotary embedding")
        return {
            "frequencies": self._constant(tables.frequencies),
            "factor": tables.factor,
            "dtype": str(tables.dtype),
            "copies": tables.copies,
            "long_frequencies": (
                None if tables.long_frequencies is None else self._constant(tables.long_frequencies)
            ),
            "switch_length": tables.switch_length,
        }

    def adaptable(self, key: int) -> int | None:
        """Return the reference of a layer's weight; None if the program does not use it."""
        return self._numbers.get(key)

    def _op(self, op: Op) -> dict[str, Any]:
        return {
            **{name: getattr(op, name) for name in _OP_FIELDS},
            "inputs": [_operand(operand) for operand in op.inputs],
            "out": _operand(op.out),
            "sizes": [[index, int(size)] for index, size in op.sizes.items()],
            "data": self._value(op.data),
        }

    def _value(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, torch.Tensor):
            return {"tensor": self._reference(value)}
        if isinstance(value, StackedWeights):
            layout = value.layout.transposed, value.layout.interleaved
            return {"stack": [self._reference(value.tensor), value.half, *layout]}
        if isinstance(value, tuple):
            return {"tuple": [self._value(each) for each in value]}
        if isinstance(value, list):
            return [self._value(each) for each in value]
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": {key: self._value(each) for key, each in value.items()}}
        raise NotCacheable(f"an instruction has a {type(value).__name__}")

    def _reference(self, tensor: torch.Tensor) -> int:
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._numbers[id(tensor)] = len(self.references)
            self.references.append(self._source(tensor))
        return number

    def _source(self, tensor: torch.Tensor) -> dict[str, Any]:
        shared: dict[str, Any] = {"dtype": str(tensor.dtype), "shape": list(tensor.shape)}
        convolution = self._convolutions.get(id(tensor))
        if convolution is not None:
            stored = self._files.find_product(convolution, tensor)
            if stored is not None:
                return {"name": stored, "is_convolution": True, **shared}
        names = self._names.get(id(tensor), [])
        stored = next(filter(None, (self._files.find(name, tensor) for name in names)), None)
        if stored is not None:
            return {"name": stored, **shared}
        if tensor.nbytes > _CONSTANT_BYTES or tensor.device.type != "cpu":
            raise NotCacheable(
                f"{(*names, 'a tensor')[0]} is not in the model's files as it is used"
            )
        return {"constant": self._constant(tensor), **shared}

    def _constant(self, tensor: torch.Tensor) -> str:
        self._constant_bytes += tensor.nbytes
        if self._constant_bytes > _ALL_CONSTANTS_BYTES:
            raise NotCacheable("too many of its tensors are not in the model's files as they are")
        key = str(len(self.constants))
        self.constants[key] = tensor.detach().clone().contiguous()
        return key


class _Reader:
    def __init__(
        self, program: Mapping[str, Any], constants: Mapping[str, torch.Tensor], files: WeightFiles
    ) -> None:
        self._program, self._constants, self._files = program, constants, files
        self._tensors = [self._tensor(**reference) for reference in program["tensors"]]

    def plan(self) -> tuple[ProgramPlan, Facts]:
        program = self._program
        adaptable = {
            id(self._tensors[number]): name
            for name, number in program["adaptable"].items()
            if number is not None
        }
        shapes = program["shapes"].items()
        plan = ProgramPlan(
            dtype=_DTYPES[program["dtype"]],
            layers=tuple(KVLayerShape(*numbers) for numbers in program["layers"]),
            lowered=self._lowered(**program["lowered"]),
            tables=tuple(self._position_tables(**each) for each in program["tables"]),
            vocab_size=program["vocab_size"],
            adaptable=adaptable,
            shapes={name: LinearShape(k, n, _DTYPES[dtype]) for name, (k, n, dtype) in shapes},
            source_layers=tuple(KVLayerShape(*numbers) for numbers in program["source_layers"]),
        )
        return plan, program["facts"]

    def _lowered(
        self,
        buffers: list[dict[str, Any]],
        ops: list[dict[str, Any]],
        tables: list[list[int]],
        num_layers: int,
        adapted: list[int],
        sections: list[int],
    ) -> Lowered:
        made = [_buffer(fields) for fields in buffers]
        whole = tuple(self._op(made, **op) for op in ops)
        return Lowered(
            ops=whole,
            buffers=tuple(made),
            tables=tuple(((call, output), width) for call, output, width in tables),
            num_layers=num_layers,
            adapted=tuple(whole[place] for place in adapted),
            sections=tuple(sections),
        )

    def _position_tables(
        self,
        frequencies: str,
        factor: float,
        dtype: str,
        copies: int,
        long_frequencies: str | None,
        switch_length: int,
    ) -> RotaryTables:
        long = None if long_frequencies is None else self._constants[long_frequencies]
        short = self._constants[frequencies]
        return RotaryTables(short, factor, _DTYPES[dtype], copies, long, switch_length)

    def _op(
        self,
        buffers: list[Buffer],
        inputs: list[list[int]],
        out: list[int],
        sizes: list[list[int]],
        data: Any,
        numbers: list[float],
        **fields: Any,
    ) -> Op:
        return Op(
            inputs=tuple(_read_operand(buffers, *operand) for operand in inputs),
            out=_read_operand(buffers, *out),
            sizes=dict(sizes),  # type: ignore[arg-type]
            data=self._value(data),
            numbers=tuple(numbers),
            **fields,
        )

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(each) for each in value]
        if not isinstance(value, dict):
            return value
        ((kind, inner),) = value.items()
        if kind == "tensor":
            return self._tensors[inner]
        if kind == "stack":
            number, half, *layout = inner
            return StackedWeights(self._tensors[number], Layout(*layout), half)
        if kind == "tuple":
            return tuple(self._value(each) for each in inner)
        return {key: self._value(each) for key, each in inner.items()}

    def _tensor(
        self,
        dtype: str,
        shape: list[int],
        name: str | None = None,
        constant: str | None = None,
        is_convolution: bool = False,
    ) -> torch.Tensor:
        tensor = self._constants.get(constant or "") if name is None else self._files.read(name)
        if tensor is not None and is_convolution:
            tensor = product_weight(tensor)
        if tensor is None or list(tensor.shape) != shape:
            raise ValueError(f"the model's files have no {name} of the shape {shape}")
        wanted = _DTYPES[dtype]
        if tensor.ndim < 2:  # small: copied from the file
            return tensor.to(wanted, copy=True)
        return tensor if tensor.dtype == wanted else stand_for(tensor, wanted)


def _checked(data: bytes) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the file's program and constants. Raises ValueError if they are damaged."""
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    constants = load(data)
    if metadata["digest"] != _digest(metadata["program"], constants):
        raise ValueError("its checksum is wrong")
    return metadata["program"], constants


def _digest(text: str, constants: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for key in sorted(constants):
        digest.update(key.encode())
        digest.update(constants[key].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _fields_of(buffer: Buffer) -> dict[str, int]:
    return {each.name: int(getattr(buffer, each.name)) for each in dataclasses.fields(buffer)}


def _buffer(fields: dict[str, int]) -> Buffer:
    return Buffer(**{**fields, "kind": BufferKind(fields["kind"])})  # type: ignore[arg-type]


def _operand(operand: Operand) -> list[int]:
    return [-1 if operand.buffer is None else operand.buffer.number, operand.offset]


def _read_operand(buffers: list[Buffer], number: int, offset: int) -> Operand:
    return Operand(None if number < 0 else buffers[number], offset)
