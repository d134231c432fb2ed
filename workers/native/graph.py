"""What a forward pass computes, as a graph over rows: one row for each token of a step.

Every value is a table [rows, width] of numbers; what transformers sees as further dimensions
(heads, say) are parts of a row. A view is a part of a value's row; its dimensions have sizes and
strides, and no dimension of the rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


class NotStatic(Exception):
    """The forward pass cannot be written as a fixed program; why is in the message."""


@dataclass(frozen=True, slots=True)
class RowView:
    """A part of the row of a node's value.

    offset: of its first number in the row.
    dims: (size, stride) from the outermost on; sizes of 1 are left out.
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
        """Whether its numbers follow one another in the row."""
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
        """Whether some numbers are in both."""
        if self.node is not other.node or self.offset >= other.end or other.offset >= self.end:
            return False
        return not self._numbers().isdisjoint(other._numbers())

    def _numbers(self) -> set[int]:
        found = {self.offset}
        for size, stride in self.dims:
            found = {start + step * stride for start in found for step in range(size)}
        return found

    def covers(self, other: "RowView") -> bool:
        """Whether both are the same numbers in the same order."""
        if self.node is not other.node or self.offset != other.offset:
            return False
        return self.dims == other.dims or (
            self.is_dense and other.is_dense and self.width == other.width
        )


def merge_dims(dims: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Neighbouring dimensions that are one run of numbers become one."""
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

    wanted: whether its rows are the wanted ones only, not all of the step's.
    """

    kind: str
    inputs: tuple[RowView, ...]
    width: int
    wanted: bool = False
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> "Node | None":
        """The node whose value it changes in place, if it has no value of its own."""
        if self.width:
            return None
        return self.inputs[0 if self.kind == "rotate" else 1].node

    def view(self) -> RowView:
        """All of its value."""
        return RowView(self, 0, ((self.width, 1),))


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in the order in which they were computed; `output` is the logits.

    tables: calls that give values which depend on positions alone.
    """

    nodes: tuple[Node, ...]
    output: Node
    tables: tuple["TableCall", ...]

    def users(self) -> dict[Node, list[Node]]:
        """For each node those that read it, as often as they do."""
        users: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for view in node.inputs:
                users[view.node].append(node)
        return users

    def describe(self) -> Iterator[str]:
        """One line for each node, the same for the same program."""
        numbers = {node: number for number, node in enumerate(self.nodes)}
        for node in self.nodes:
            reads = [(numbers[view.node], view.offset, view.dims) for view in node.inputs]
            shown = {
                key: value if isinstance(value, int | float | str | tuple) else id(value)
                for key, value in node.data.items()
            }
            yield f"{node.kind} {node.width} {node.wanted} {reads} {shown}"


@dataclass(frozen=True, slots=True)
class TableCall:
    """A module that is called with a step's positions; see headrace.workers.native.tables."""

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
