"""A forward pass as a graph over rows, with one row for each token of a step.

Every value is a table [rows, width] of numbers; the further dimensions that transformers sees
(heads, for example) are parts of a row. A view is a part of a value's row: its dimensions have
sizes and strides, without the dimension of the rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

NodeKind = Literal[
    "embedding", "linear", "norm", "activation", "attend", "table", "copy", "gather", "scale",
    "cat", "mul", "add", "rotate", "gated", "route", "chosen", "experts",
    "sub", "assemble", "store",
]  # fmt: skip


class NotStatic(Exception):
    """The forward pass cannot be written as a fixed program; the message says why."""


@dataclass(frozen=True, slots=True)
class RowView:
    """A part of the row of a node's value.

    offset: index of its first number in the row.
    dims: (size, stride), the outermost first; sizes of 1 are left out.
    """

    node: "Node"
    offset: int
    dims: tuple[tuple[int, int], ...]

    @property
    def width(self) -> int:
        width = 1
        for size, _ in self.dims:
            width *= size
        return width

    @property
    def is_dense(self) -> bool:
        """Whether its numbers are contiguous in the row."""
        step = 1
        for size, stride in reversed(self.dims):
            if stride != step:
                return False
            step *= size
        return True

    @property
    def is_whole(self) -> bool:
        return self.offset == 0 and self.is_dense and self.width == self.node.width

    @property
    def end(self) -> int:
        """One after its last number in the row."""
        return self.offset + 1 + sum((size - 1) * stride for size, stride in self.dims)

    def overlaps(self, other: "RowView") -> bool:
        """Return whether some numbers are in both views."""
        if self.node is not other.node or self.offset >= other.end or other.offset >= self.end:
            return False
        return not self._indices().isdisjoint(other._indices())

    def _indices(self) -> set[int]:
        indices = {self.offset}
        for size, stride in self.dims:
            indices = {start + step * stride for start in indices for step in range(size)}
        return indices

    def covers(self, other: "RowView") -> bool:
        """Return whether both views are the same numbers in the same order."""
        if self.node is not other.node or self.offset != other.offset:
            return False
        return self.dims == other.dims or (
            self.is_dense and other.is_dense and self.width == other.width
        )


def merge_dims(dims: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Merge neighbouring dimensions that are contiguous."""
    merge_dims: list[tuple[int, int]] = []
    for size, stride in dims:
        if merge_dims and merge_dims[-1][1] == size * stride:
            merge_dims[-1] = (merge_dims[-1][0] * size, stride)
        else:
            merge_dims.append((size, stride))
    return tuple(merge_dims)


@dataclass(eq=False, slots=True)
class Node:
    """One operation and its value [rows, width].

    logit_rows_only: whether its rows are only those whose logits are needed, not all of the step's.
    """

    kind: NodeKind
    inputs: tuple[RowView, ...]
    width: int
    logit_rows_only: bool = False
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> "Node | None":
        """The node whose value it changes in place, if it has no value of its own."""
        if self.width or self.kind == "store":
            return None
        return self.inputs[0 if self.kind == "rotate" else 1].node

    def view(self) -> RowView:
        """Return a view of the whole value."""
        return RowView(self, 0, ((self.width, 1),))


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in the order in which they were computed; `output` is the logits, or None where all
    that is computed is stored.

    tables: calls whose values depend on the positions alone.
    """

    nodes: tuple[Node, ...]
    output: Node | None
    tables: tuple["TableCall", ...]

    def users(self) -> dict[Node, list[Node]]:
        """Return, for each node, the nodes that read it, once for each time that they do."""
        users: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for view in node.inputs:
                users[view.node].append(node)
        return users

    def describe(self) -> Iterator[str]:
        """Yield one line for each node, the same for the same program."""
        numbers = {node: number for number, node in enumerate(self.nodes)}
        for node in self.nodes:
            reads = [(numbers[view.node], view.offset, view.dims) for view in node.inputs]
            shown = {
                key: value if isinstance(value, int | float | str | tuple) else id(value)
                for key, value in node.data.items()
            }
            yield f"{node.kind} {node.width} {node.logit_rows_only} {reads} {shown}"


@dataclass(frozen=True, slots=True)
class TableCall:
    """A module that is called with a step's positions, such as a rotary embedding's tables."""

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
