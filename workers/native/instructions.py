"""The instructions of a program over buffers, their weights not packed yet (see src/program.h)."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from headrace.workers.native.library import Operation


class CacheKind(IntEnum):
    """Whose keys and values attention reads or writes: the sequence's own, an encoder's for the
    sequence, or those of one step alone (see src/program.h)."""

    OWN = 0
    SOURCE = 1
    PASSING = 2


class BufferKind(IntEnum):
    """The number type of a buffer: float32, the type of the products, 8-bit integers, or rows that
    are rounded in blocks (see src/rounded_rows.h), whose width is a number of blocks."""

    FLOAT32 = 0
    PRODUCT = 1
    INT8 = 2
    ROUNDED = 3


@dataclass(eq=False, slots=True)
class Buffer:
    """Rows of `width` numbers.

    copies: how many it has for each row of the step: one for each of its experts.
    number: its index in the program; -1: not assigned yet.
    """

    width: int
    kind: BufferKind = BufferKind.FLOAT32
    copies: int = 1
    number: int = -1


@dataclass(frozen=True, slots=True)
class Operand:
    """The position of a value in a buffer's rows. buffer: None for the step's output."""

    buffer: Buffer | None
    offset: int = 0


@dataclass(slots=True)
class Op:
    """One instruction; see `Instruction` in src/program.h. data: weights, still to be packed."""

    kind: Operation
    inputs: tuple[Operand, ...]
    out: Operand
    logit_rows_only: bool = False
    packed: bool = False
    sizes: dict[int, int] = field(default_factory=dict)
    numbers: tuple[float, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lowered:
    """A lowered graph.

    buffers: those that exist at the same time.
    tables: (call, index of its output) and width of each table that a step must provide.
    adapted: the products that adapters may change, in the order of their indices.
    sections: the ends of several programs in `ops`, one after another; empty: there is one.
    """

    ops: tuple[Op, ...]
    buffers: tuple[Buffer, ...]
    tables: tuple[tuple[tuple[int, int], int], ...]
    num_layers: int
    adapted: tuple[Op, ...] = ()
    sections: tuple[int, ...] = ()


def share_buffers(ops: list[Op]) -> list[Buffer]:
    """Number the buffers so that two that are never needed at once can share memory."""
    last_use: dict[Buffer, int] = {}
    for index, op in enumerate(ops):
        for operand in (*op.inputs, op.out):
            if operand.buffer is not None:
                last_use[operand.buffer] = index
    shapes: list[Buffer] = []
    free: dict[tuple[int, int, int], list[int]] = {}
    for index, op in enumerate(ops):
        operands = (*op.inputs, op.out)
        buffers = [operand.buffer for operand in operands if operand.buffer is not None]
        for buffer in buffers:
            if buffer.number < 0:
                numbers = free.get((buffer.width, buffer.kind, buffer.copies))
                if numbers:
                    buffer.number = numbers.pop()
                else:
                    buffer.number = len(shapes)
                    shapes.append(buffer)
        for buffer in dict.fromkeys(buffers):
            if last_use[buffer] == index:
                key = (buffer.width, buffer.kind, buffer.copies)
                free.setdefault(key, []).append(buffer.number)
    return shapes
