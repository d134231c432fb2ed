"""Compile a model's forward pass to a program of instructions with packed weights, and run it.

`CompiledProgram` holds what does not change: instructions and weights. Its `start` returns a
`Program`, which also has a cache and threads.
"""

import ctypes
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from headrace.protocol.config import Quantization
from headrace.workers.attention.backend import AttentionBatch, Span
from headrace.workers.attention.cache_dtype import CacheDtype
from headrace.workers.attention.rope_switch import long_rows
from headrace.workers.native.activations import ACTIVATIONS
from headrace.workers.native.adapter_slots import AdaptedLinear, LayerSlice, NativeAdapterSlots
from headrace.workers.native.experts.packing import PackedExperts
from headrace.workers.native.graph import NotStatic
from headrace.workers.native.instructions import Lowered, Op, Operand
from headrace.workers.native.library import (
    CACHE_FORMATS,
    GROUP_TOKENS,
    MAX_EXPERTS,
    MAX_HEAD_DIM,
    OPERATIONS,
    CBuffer,
    CCacheBlocks,
    CInstruction,
    COperand,
    CScoreBias,
    CStep,
    require_kernels,
    span_arrays,
)
from headrace.workers.native.node_parts import parts_of
from headrace.workers.native.packed_blocks import PackedBlocks
from headrace.workers.native.packed_weight import ALIGNMENT, PackedWeight
from headrace.workers.native.plan import ProgramPlan, plan_program
from headrace.workers.native.position_tables import RotaryTables, compute_tables
from headrace.workers.native.stored_dtype import dtype_of
from headrace.workers.native.weight_format import WeightFormat, format_of, order_of
from headrace.workers.native.weight_memory import SharedWeights, WeightMemory
from headrace.workers.quantized.tensor import quantized_of

if TYPE_CHECKING:  # a program from the cache needs no transformers
    from transformers.modeling_utils import PreTrainedModel

    from headrace.workers.attention.hook import AttentionHook

_OUTPUT = -2  # the buffer number of the step's output


class CompiledProgram:
    """A model's instructions and its packed weights.

    memory: where the weights lie. formats: of the weights.
    adapted: the products that LoRA adapters may change.
    plan: what it was compiled from, until the model's weights are released.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        hook: "AttentionHook",
        threads: int,
        quantization: Quantization | None = None,
        shared: SharedWeights | None = None,
        adaptable: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Capture the model, lower it to instructions and pack its weights.

        shared: the weights that the group's workers share.
        adaptable: the layers that LoRA adapters may change, by name; None: none.

        Raises NotStatic if the model's forward pass is not one fixed program.
        """
        plan = plan_program(model, hook, quantization, adaptable)
        self._build(plan, threads, shared)
        self.plan: ProgramPlan | None = plan

    @classmethod
    def of_plan(
        cls, plan: ProgramPlan, threads: int, shared: SharedWeights | None = None
    ) -> "CompiledProgram":
        """Return the program of a plan, with its weights packed."""
        compiled = cls.__new__(cls)
        compiled._build(plan, threads, shared)
        compiled.plan = None
        return compiled

    def _build(self, plan: ProgramPlan, threads: int, shared: SharedWeights | None) -> None:
        lowered = plan.lowered
        self.dtype = plan.dtype
        self.is_bf16 = plan.dtype == torch.bfloat16
        self.threads = threads
        self.layers, self.source_layers = plan.layers, plan.source_layers
        self.tables = lowered.tables
        self.sections = lowered.sections
        self.calls = plan.tables
        switches = (t.switch_length for t in plan.tables if isinstance(t, RotaryTables))
        self.switch_length = max(switches, default=0) or None
        self.vocab_size = plan.vocab_size
        self._referenced: list[Any] = []  # keeps alive the memory that instructions point to
        self._score_biases: dict[int, CScoreBias] = {}
        _check_sizes(lowered)
        packed = self._plan_weights(lowered.ops)
        self._packed_by_weight = dict(_packed_by_weight(lowered.ops, packed))
        packed = [
            self._plan_table(op) if op.kind == "embed" else weight
            for op, weight in zip(lowered.ops, packed, strict=True)
        ]
        weights = list(dict.fromkeys(weight for weight in packed if weight is not None))
        self.formats = {weight.weight_format for weight in weights}
        self.memory = WeightMemory(weights, threads, shared)
        self.adapted = list(_adapted_linears(lowered, packed, plan.adaptable, self.dtype))
        adapted_names = {part.layer for linear in self.adapted for part in linear.slices}
        self._shapes = {name: shape for name, shape in plan.shapes.items() if name in adapted_names}
        operations = [self._instruction(*pair) for pair in zip(lowered.ops, packed, strict=True)]
        self.instructions = (CInstruction * len(operations))(*operations)
        shapes = [CBuffer(b.width, b.kind, b.copies) for b in lowered.buffers]
        self.buffers = (CBuffer * len(shapes))(*shapes)

    @property
    def weight_bytes(self) -> int:
        """Size of the packed weights, whether shared or not."""
        return self.memory.num_bytes

    def reads(self, parameter: torch.Tensor) -> bool:
        """Return whether the program reads a parameter of the model instead of a packed copy."""
        return any(parameter is kept for kept in self._referenced)

    def new_adapter_slots(self, num_slots: int) -> NativeAdapterSlots:
        """Return empty slots for LoRA adapters."""
        return NativeAdapterSlots(self.adapted, self._shapes, num_slots)

    def start(
        self,
        num_blocks: int,
        block_size: int,
        cache_dtype: CacheDtype | None = None,
        *,
        shares_layers: bool = False,
        source_blocks: int = 0,
        passing_blocks: int = 0,
    ) -> "Program":
        """Return a program with a cache of its own, of the model's dtype unless another is given.

        shares_layers: all layers use the same memory, so that no step can read what one before it
            has written: for sequences that run whole in one step.
        source_blocks, passing_blocks: of caches besides the sequences' own; see CacheKind.

        Raises MemoryError if there is no memory.
        """
        blocks = (num_blocks, source_blocks, passing_blocks)
        return Program(self, blocks, block_size, cache_dtype, shares_layers)

    def _plan_weights(self, ops: Sequence[Op]) -> list[PackedWeight | PackedExperts | None]:
        """Plan the weights of each instruction; layers that are used several times share them."""
        planned: dict[object, PackedWeight | PackedExperts | None] = {}
        for op in ops:
            if _weight_key(op) not in planned:
                planned[_weight_key(op)] = self._plan_weight(op)
        return [planned[_weight_key(op)] for op in ops]

    def _plan_weight(self, op: Op) -> PackedWeight | PackedExperts | None:
        if op.kind in ("experts_up", "experts_down"):
            is_gated = op.kind == "experts_up"
            weight_format = WeightFormat(op.sizes[4])
            return PackedExperts(op.data["parts"], self.dtype, weight_format, is_gated)
        if op.kind != "linear":
            return None
        weight_format = WeightFormat(op.sizes[4])
        kind = PackedBlocks if weight_format.is_blocks else PackedWeight
        return kind(parts_of(op.data), self.dtype, weight_format, "gate" in op.data)

    def _plan_table(self, op: Op) -> PackedWeight | None:
        """Plan the panels of an embedding in blocks; None if the head's are read, or a tensor."""
        table = op.data["table"]
        if (
            table is None
            or id(table) in self._packed_by_weight
            or not format_of(table, None).is_blocks
        ):
            return None
        part = {"weight": table, "bias": None, "transposed": False}
        return PackedBlocks([part], self.dtype, format_of(table, None), is_gated=False)

    def _instruction(self, op: Op, weight: PackedWeight | PackedExperts | None) -> CInstruction:
        instruction = CInstruction(
            operation=OPERATIONS.index(op.kind), logit_rows_only=op.logit_rows_only
        )
        for index, operand in enumerate(op.inputs):
            instruction.inputs[index] = _c_operand(operand)
        for index in range(len(op.inputs), 3):
            instruction.inputs[index] = COperand(-1, 0)
        instruction.out = _c_operand(op.out)
        instruction.packed = op.packed
        for index, size in op.sizes.items():
            instruction.sizes[index] = size
        for index, value in enumerate(op.numbers):
            instruction.numbers[index] = value
        function = op.data.get("function")
        activation = 0 if function is None else 1 + list(ACTIVATIONS).index(function)
        if op.kind == "embed" and op.data["table"] is not None:
            assert not isinstance(weight, PackedExperts)
            self._embed(instruction, op.data["table"], weight)
        elif op.kind == "norm":
            self._norm(instruction, op.data)
        elif op.kind == "reorder":
            order = order_of(op.data["weight"])
            assert order is not None
            places = torch.from_numpy(order)
            self._referenced.append(places)
            instruction.data[0] = places.data_ptr()
        elif op.kind == "combine":
            instruction.sizes[2] = activation
        elif op.kind in ("attend", "finish_attend"):
            instruction.data[0] = self._float_address(op.data["sinks"])
            instruction.data[1] = self._score_bias(op.data["bias"])
        elif op.kind == "scores":
            places = torch.tensor(op.data["places"], dtype=torch.int32)
            self._referenced.append(places)
            instruction.data[0] = places.data_ptr()
        elif op.kind == "route":
            instruction.data[0] = self._float_address(op.data["choice_bias"])
        elif weight is not None:
            instruction.sizes[0] = weight.outputs
            instruction.sizes[3] = activation
            instruction.data[0] = weight.address
            instruction.data[1] = None if weight.bias is None else weight.bias.data_ptr()
            instruction.data[2] = weight.scales_address
            if isinstance(weight, PackedExperts):
                instruction.sizes[6] = weight.stride // ALIGNMENT
            self._referenced.append(weight)
        return instruction

    def _embed(
        self, instruction: CInstruction, table: torch.Tensor, packed: PackedWeight | None
    ) -> None:
        panels = self._packed_by_weight.get(id(table), packed)
        if panels is not None:
            instruction.sizes[4], instruction.sizes[5] = 1, panels.weight_format
            instruction.data[0] = panels.address
            return
        quantized = quantized_of(table)
        table = table.to(dtype_of(table)) if quantized is None else quantized.to_dtype(self.dtype)
        self._referenced.append(table)
        instruction.sizes[1] = table.dtype != torch.float32
        instruction.data[0] = table.data_ptr()

    def _norm(self, instruction: CInstruction, data: dict[str, Any]) -> None:
        weight = data["weight"]
        if weight is not None:
            weight = weight.float() + (1.0 if data["plus_one"] else 0.0)
        instruction.data[0] = self._float_address(weight)
        instruction.data[1] = self._float_address(data["bias"])

    def _score_bias(self, bias: torch.Tensor | None) -> int | None:
        """Return the address of numbers that are added to scores, as the kernels read them."""
        if bias is None:
            return None
        known = self._score_biases.get(id(bias))
        if known is None:
            exponents = bias.detach().float() * math.log2(math.e)
            padded = nn.functional.pad(exponents, (0, GROUP_TOKENS - 1)).contiguous()
            centre = (bias.shape[1] - 1) // 2
            known = CScoreBias(padded.data_ptr(), padded.shape[1], centre)
            self._score_biases[id(bias)] = known
            self._referenced += [bias, padded]
        return ctypes.addressof(known)

    def _float_address(self, values: torch.Tensor | None) -> int | None:
        """Copy numbers to float32 and return their address."""
        if values is None:
            return None
        values = values.detach().to(torch.float32, copy=True).contiguous()
        self._referenced.append(values)
        return values.data_ptr()


class Program:
    """A running program: threads, and caches of some blocks of block_size tokens.

    blocks: of the caches, by CacheKind. block_size must be a multiple of 16.
    """

    def __init__(
        self,
        compiled: CompiledProgram,
        blocks: tuple[int, int, int],
        block_size: int,
        cache_dtype: CacheDtype | None = None,
        shares_layers: bool = False,
    ) -> None:
        assert block_size % GROUP_TOKENS == 0
        library = require_kernels()
        sizes = CCacheBlocks((ctypes.c_int64 * 3)(*blocks))
        self._compiled = compiled
        self._output = torch.empty((0, compiled.vocab_size))
        self._run = library.run
        self._begin = compiled.sections[-2] if len(compiled.sections) > 1 else 0
        self._handle = library.new(
            compiled.is_bf16, compiled.instructions, len(compiled.instructions), compiled.buffers,
            len(compiled.buffers), compiled.threads, ctypes.byref(sizes), block_size,
            _cache_format(cache_dtype, compiled.dtype), shares_layers,
        )  # fmt: skip
        if not self._handle:
            raise MemoryError("no memory for the cache")
        weakref.finalize(self, library.delete, compiled.is_bf16, self._handle)

    def forward(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        logit_rows: Sequence[int],
        batch: AttentionBatch,
        slots: torch.Tensor | None = None,
        adapters: NativeAdapterSlots | None = None,
        token_types: Sequence[int] | None = None,
        sources: Sequence[Span] = (),
        scores: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute logits [logit rows, vocabulary], float32, of a flattened batch.

        logit_rows: the rows whose logits are needed; all, for a program of something else.
        slots: the adapter slot of each row [rows]; None: no row has an adapter.
        token_types: of each row; None: all 0.
        sources: what each of the batch's spans attends to besides its own tokens, in their order.
        scores: receives scores of attention to that [heads, rows, positions], as exponents of two.

        The logits are valid until the next call, which writes to the same memory: fresh pages would
        cost a millisecond a step. Raises MemoryError if there is no memory for the step.
        """
        types = token_types or [0] * len(token_ids)
        ids = torch.tensor([token_ids, positions, types], dtype=torch.int32)
        logit_indices = torch.tensor(logit_rows, dtype=torch.int32)
        own = [*batch.decodes, *batch.prefills]
        spans, blocks = span_arrays([*own, *sources])
        tables = self._tables(ids[1:2].long(), batch)
        addresses = (ctypes.c_void_p * max(1, len(tables)))(*(t.data_ptr() for t in tables))
        output = self._output_of(len(logit_rows))
        step = CStep(
            rows=len(token_ids),
            num_logit_rows=len(logit_rows),
            num_spans=len(own),
            token_ids=ids[0].data_ptr(),
            positions=ids[1].data_ptr(),
            logit_rows=logit_indices.data_ptr(),
            spans=spans.data_ptr(),
            blocks=blocks.data_ptr(),
            tables=ctypes.addressof(addresses),
            output=output.data_ptr(),
            token_types=ids[2].data_ptr(),
            begin=self._begin,
            end=len(self._compiled.instructions),
        )
        if sources:
            step.sources = spans[len(own) :].data_ptr()
        if scores is not None:
            step.scores, step.score_stride = scores.data_ptr(), scores.shape[2]
        if slots is not None and adapters is not None:
            step.slots, step.adapters = slots.data_ptr(), adapters.table
            step.num_slots, step.max_rank = adapters.num_slots, adapters.max_rank
        self._execute(step)
        return output

    def run_section(
        self,
        number: int,
        features: torch.Tensor,
        output: torch.Tensor | None = None,
        span: Span | None = None,
        source: Span | None = None,
    ) -> None:
        """Run one of the programs before the last on the features [rows, width] of one sequence.

        features: float32; rows may overlap. output: receives the program's values [rows, width].
        span: what the rows attend to, all in this step. source: where they store what they make.
        """
        rows = len(features)
        assert features.stride(1) == 1
        positions = torch.arange(rows, dtype=torch.int32)
        spans, blocks = span_arrays([each for each in (span, source) if each is not None])
        ends = self._compiled.sections
        step = CStep(
            rows=rows,
            num_spans=0 if span is None else 1,
            positions=positions.data_ptr(),
            spans=spans.data_ptr(),
            blocks=blocks.data_ptr(),
            output=None if output is None else output.data_ptr(),
            begin=ends[number - 1] if number else 0,
            end=ends[number],
            features=features.data_ptr(),
            feature_stride=features.stride(0),
        )
        if source is not None:
            step.sources = spans[1:].data_ptr()
        self._execute(step)

    def _execute(self, step: CStep) -> None:
        """Run a step. Raises MemoryError if there is no memory for it."""
        if self._run(self._compiled.is_bf16, self._handle, ctypes.byref(step)):
            raise MemoryError("no memory for a step")

    def _output_of(self, rows: int) -> torch.Tensor:
        if rows > len(self._output):
            self._output = torch.empty((rows, self._compiled.vocab_size))
        return self._output[:rows]

    def _tables(self, positions: torch.Tensor, batch: AttentionBatch) -> list[torch.Tensor]:
        """Compute the tables of the positions [1, rows] with the model's own modules, one row for
        each position."""
        compiled = self._compiled
        switch = compiled.switch_length
        rows = None if switch is None else long_rows(batch, switch)
        is_long = None if rows is None else torch.tensor(rows)
        outputs = {
            call: compute_tables(compiled.calls[call], positions, is_long)
            for (call, _), _ in compiled.tables
        }
        return [
            outputs[call][index].float().reshape(-1, width).contiguous()
            for (call, index), width in compiled.tables
        ]


def _weight_key(op: Op) -> object:
    """Return what tells an instruction's weights from those of others."""
    if op.kind != "linear":
        return id(op)
    names = ("first", "count")
    parts = (
        (id(part["weight"]), id(part["bias"]), part["transposed"], *map(part.get, names))
        for part in parts_of(op.data)
    )
    return tuple(parts), op.sizes[4], "gate" in op.data


def _adapted_linears(
    lowered: Lowered,
    packed: Sequence[PackedWeight | PackedExperts | None],
    names: Mapping[int, str],
    dtype: torch.dtype,
) -> Iterator[AdaptedLinear]:
    """Yield the products that adapters may change, in the order of their indices."""
    weights = {id(op): weight for op, weight in zip(lowered.ops, packed, strict=True)}
    for op in lowered.adapted:
        slices = []
        for part in parts_of(op.data):
            weight = part["weight"]
            outputs = weight.shape[1 if part["transposed"] else 0]
            first = part.get("first", 0)
            slices.append(LayerSlice(names[id(weight)], first, part.get("count", outputs)))
        packed_weight = weights[id(op)]
        assert isinstance(packed_weight, PackedWeight)
        yield AdaptedLinear(tuple(slices), packed_weight, dtype)


def _packed_by_weight(
    ops: Sequence[Op], packed: Sequence[PackedWeight | PackedExperts | None]
) -> Iterator[tuple[int, PackedWeight]]:
    """Yield the ids and packed forms of weights packed unchanged: a tied embedding reads those."""
    for op, weight in zip(ops, packed, strict=True):
        if not isinstance(weight, PackedWeight) or "gate" in op.data:
            continue
        if weight.weight_format != WeightFormat.FLOAT and not weight.weight_format.is_blocks:
            continue
        parts = op.data["parts"]
        if len(parts) == 1 and not parts[0]["transposed"] and "first" not in parts[0]:
            yield id(parts[0]["weight"]), weight


def _cache_format(cache_dtype: CacheDtype | None, dtype: torch.dtype) -> int:
    """Return the number of a cache's format."""
    if cache_dtype is None or cache_dtype == str(dtype).removeprefix("torch."):
        return 0
    return [str(name) for name in CACHE_FORMATS].index(cache_dtype)


def _check_sizes(lowered: Lowered) -> None:
    for op in lowered.ops:
        if op.kind == "attend" and max(op.sizes[2], op.sizes[3]) > MAX_HEAD_DIM:
            raise NotStatic(f"its heads have more than {MAX_HEAD_DIM} dimensions")
        if op.kind == "route" and op.sizes[0] > MAX_EXPERTS:
            raise NotStatic(f"it has more than {MAX_EXPERTS} experts in a layer")


def _c_operand(operand: Operand) -> COperand:
    number = _OUTPUT if operand.buffer is None else operand.buffer.number
    return COperand(number, operand.offset)
