"""From a rewritten graph to instructions over buffers (see src/program.h).

A node's value gets a buffer of its own width, in float32, or in the type of the products where only
products read it. Buffers whose values are no longer needed are used again.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from headrace.protocol.config import Quantization
from headrace.workers.native.graph import Graph, Node, NotStatic, RowView

FLOATS, PACKED, BYTES = range(3)  # float32, the type of the products, 8 bits
WORDS, ROUNDED, INTEGERS = range(3)  # how a weight is stored and multiplied: see src/program.cpp


@dataclass(eq=False, slots=True)
class Buffer:
    """Rows of `width` numbers. kind: FLOATS, PACKED or BYTES. number: where it lies."""

    width: int
    kind: int = 0
    number: int = -1


@dataclass(frozen=True, slots=True)
class Operand:
    """From which number on in a buffer's rows. No buffer: the step's output."""

    buffer: Buffer | None
    at: int = 0


@dataclass(slots=True)
class Op:
    """One instruction; `weights` are those of a linear, still to be packed."""

    kind: str
    inputs: tuple[Operand, ...]
    out: Operand
    wanted: bool = False
    packed: bool = False
    sizes: dict[int, int] = field(default_factory=dict)
    numbers: tuple[float, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lowered:
    """Instructions, the buffers that exist at the same time, and which tables a step has to bring.

    tables: (call, place among its outputs) and width of each.
    adapted: the products that adapters may change, in the order of their numbers.
    """

    ops: tuple[Op, ...]
    buffers: tuple[Buffer, ...]
    tables: tuple[tuple[tuple[int, int], int], ...]
    num_layers: int
    adapted: tuple[Op, ...] = ()


def lower(
    graph: Graph,
    per_word: int,
    quantization: Quantization | None = None,
    adaptable: Collection[int] = (),
) -> Lowered:
    """pair: how many numbers of a packed buffer make a word of 32 bits (2 for bfloat16).
    adaptable: ids of the weights that adapters may change.

    The head is spared the rounding of its rows: that is where a token is chosen.
    NotStatic if there is a node that no instruction does.
    """
    lowering = _Lowering(graph, per_word, quantization, adaptable)
    for node in graph.nodes:
        lowering.emit(node)
    return Lowered(
        tuple(lowering.ops),
        tuple(_share_buffers(lowering.ops)),
        tuple(lowering.tables.items()),
        lowering.num_layers,
        tuple(lowering.adapted),
    )


class _Lowering:
    def __init__(
        self,
        graph: Graph,
        per_word: int,
        quantization: Quantization | None,
        adaptable: Collection[int],
    ) -> None:
        self.ops: list[Op] = []
        self.adapted: list[Op] = []
        self._adaptable = adaptable
        self.tables: dict[tuple[int, int], int] = {}
        self.num_layers = 0
        self._per_word = per_word
        self._format = WORDS if quantization is None else ROUNDED
        self._rounds_rows = quantization == "int8_dynamic"
        self._graph = graph
        self._users = graph.users()
        self._operands: dict[Node, Operand] = {}
        self._converted: dict[tuple[Node, int, bool], tuple[Operand, ...]] = {}
        self._siblings = _siblings(graph)

    def emit(self, node: Node) -> None:
        getattr(self, f"_{node.kind}")(node)

    # Where values lie.

    def _allocate(self, node: Node, packed: bool = False) -> Operand:
        is_output = node is self._graph.output
        place = Operand(None if is_output else Buffer(node.width, PACKED if packed else FLOATS))
        self._operands[node] = place
        return place

    def _packs(self, node: Node) -> bool:
        """Whether only products read its value, all of it, and words are whole."""
        users = self._users[node]
        reads = [view for user in users for view in user.inputs[:1] if view.node is node]
        return (
            bool(users)
            and len(reads) == len(users)
            and all(user.kind in ("linear", "gated") for user in users)
            and not any(self._format_for(user) == INTEGERS for user in users)
            and all(view.is_whole for view in reads)
            and node.width % self._per_word == 0
        )

    def _operand(self, view: RowView) -> Operand:
        if not view.is_dense:
            raise NotStatic("it reads numbers that do not follow one another")
        place = self._operands.get(view.node)
        if place is None:
            raise NotStatic("it reads a table of positions other than to rotate by it")
        if place.buffer is not None and place.buffer.kind != FLOATS:
            raise NotStatic("it reads rounded numbers")
        return Operand(place.buffer, place.at + view.offset)

    def _head_operand(self, view: RowView, dim: int) -> tuple[Operand, int]:
        """Where heads of `dim` numbers begin, and how far they are apart."""
        if view.is_dense:
            return self._operand(view), dim
        if len(view.dims) == 2 and view.dims[1] == (dim, 1):
            start = RowView(view.node, view.offset, ((dim, 1),))
            return self._operand(start), view.dims[0][1]
        raise NotStatic("its heads lie in no known order")

    def _format_for(self, node: Node) -> int:
        return INTEGERS if self._rounds_rows and not node.wanted else self._format

    def _product_input(self, node: Node) -> tuple[Operand, ...]:
        """Where a product's input lies, converted if that has not been done; for integers the
        rows' scales too."""
        view, weight_format = node.inputs[0], self._format_for(node)
        place = self._operands[view.node]
        if place.buffer is not None and place.buffer.kind == PACKED:
            return (place,)
        key = (view.node, view.offset, weight_format == INTEGERS)
        known = self._converted.get(key)
        if known is None:
            known = self._round(view) if weight_format == INTEGERS else self._convert(view)
            self._converted[key] = known
        return known

    def _convert(self, view: RowView) -> tuple[Operand, ...]:
        padding = -view.width % self._per_word
        out = Operand(Buffer(view.width + padding, PACKED))
        sizes = {0: view.width, 1: padding}
        self._op("convert", view.node, (self._operand(view),), out, sizes=sizes)
        return (out,)

    def _round(self, view: RowView) -> tuple[Operand, ...]:
        padding = -view.width % 4
        out, scales = Operand(Buffer(view.width + padding, BYTES)), Operand(Buffer(1))
        sizes = {0: view.width, 1: padding}
        self._op("round", view.node, (self._operand(view), scales), out, sizes=sizes)
        return out, scales

    def _op(
        self, kind: str, node: Node, inputs: tuple[Operand, ...], out: Operand, **rest: Any
    ) -> None:
        packed = out.buffer is not None and out.buffer.kind == PACKED
        self.ops.append(Op(kind, inputs, out, node.wanted, packed, **rest))

    def _drop_conversions(self, node: Node) -> None:
        """A value has been changed in place."""
        self._converted = {k: v for k, v in self._converted.items() if k[0] is not node}

    # One method for each kind of node.

    def _table(self, node: Node) -> None:
        self.tables[node.data["call"], node.data["place"]] = node.width

    def _embedding(self, node: Node) -> None:
        sizes = {0: node.width, 2: int(node.data["of_positions"]), 3: node.data["offset"]}
        self._op(
            "embed", node, (), self._allocate(node), sizes=sizes, data={"table": node.data["weight"]}
        )

    def _norm(self, node: Node) -> None:
        source = self._operand(node.inputs[0])
        size = node.data["size"]
        sizes = {0: size, 1: node.width // size, 2: int(node.data["centred"])}
        out = self._allocate(node, self._packs(node))
        data = {key: node.data[key] for key in ("weight", "bias", "plus_one")}
        self._op("norm", node, (source,), out, sizes=sizes, numbers=(node.data["eps"],), data=data)

    def _linear(self, node: Node) -> None:
        if node in self._operands:  # done together with a sibling
            return
        if len(node.inputs) > 1:
            return self._linear_added(node)
        source = self._product_input(node)
        fused = self._siblings.get(node, [node])
        function = node.data.get("function")
        if len(fused) == 1:
            out = self._allocate(node, function is not None and self._packs(node))
        else:
            out = Operand(Buffer(sum(one.width for one in fused)))
            at = 0
            for one in fused:
                self._operands[one] = Operand(out.buffer, at)
                at += one.width
        data = {"parts": [one.data for one in fused], "function": function}
        self._product(node, source, out, 0, data)

    def _linear_added(self, node: Node) -> None:
        source = self._product_input(node)
        target = node.inputs[1]
        data = {"parts": [node.data], "function": None}
        self._product(node, source, self._operand(target), 1, data, node.data["by"])
        self._drop_conversions(target.node)

    def _gated(self, node: Node) -> None:
        source = self._product_input(node)
        out = self._allocate(node, self._packs(node))
        self._product(node, source, out, 2, dict(node.data))

    def _product(
        self, node: Node, source: tuple[Operand, ...], out: Operand, mode: int, data: dict[str, Any],
        factor: float = 1.0,
    ) -> None:  # fmt: skip
        weight_format = self._format_for(node)
        words = -(-node.inputs[0].width // (4 if weight_format == INTEGERS else self._per_word))
        is_adapted = all(id(part["weight"]) in self._adaptable for part in parts_of(data))
        if is_adapted:
            self._shrink(node, source[0])
        sizes = {1: words, 2: mode, 4: weight_format, 5: len(self.adapted) if is_adapted else -1}
        self._op("linear", node, source, out, sizes=sizes, numbers=(factor,), data=data)
        if is_adapted:
            self.adapted.append(self.ops[-1])

    def _shrink(self, node: Node, source: Operand) -> None:
        """What adapters make of a product's rows; those of a product of bytes are read before they
        are rounded."""
        is_bytes = source.buffer is not None and source.buffer.kind == BYTES
        place = self._operand(node.inputs[0]) if is_bytes else source
        sizes = {0: node.inputs[0].width, 5: len(self.adapted)}
        self._op("shrink", node, (place,), place, sizes=sizes)

    def _rotate(self, node: Node) -> None:
        x, cos, sin = node.inputs
        for user in self._users[x.node]:
            if user.kind == "rotate" and user is not node and user.inputs[0].overlaps(x):
                raise NotStatic("it rotates the same numbers twice")
        tables = [(view.node.data["call"], view.node.data["place"]) for view in (cos, sin)]
        if any(not view.is_whole for view in (cos, sin)) or cos.width != sin.width:
            raise NotStatic("rotary embedding with a part of a table")
        places = [list(self.tables).index(table) for table in tables]
        sizes = {0: node.data["heads"], 1: node.data["dim"], 2: node.data["turned"]}
        sizes |= {3: places[0], 4: places[1], 5: cos.width}
        place = self._operands[x.node]
        out = Operand(place.buffer, place.at + x.offset)
        self._op("rotate", node, (out,), out, sizes=sizes)
        self._drop_conversions(x.node)

    def _attend(self, node: Node) -> None:
        names = ("heads", "kv_heads", "key_dim", "value_dim", "window", "layer")
        sizes = {place: node.data[name] for place, name in enumerate(names)}
        key_dim, value_dim = node.data["key_dim"], node.data["value_dim"]
        query, query_stride = self._head_operand(node.inputs[0], key_dim)
        key, key_stride = self._head_operand(node.inputs[1], key_dim)
        value, value_stride = self._head_operand(node.inputs[2], value_dim)
        numbers = (node.data["scaling"], node.data["softcap"])
        out = self._allocate(node, self._packs(node))
        self.num_layers = max(self.num_layers, node.data["layer"] + 1)
        strides = {6: key_stride, 7: value_stride}
        self._op("write", node, (key, value), key, sizes=sizes | strides, numbers=numbers)
        sizes[6] = query_stride
        self._op("attend", node, (query,), out, sizes=sizes, numbers=numbers)
        self._op("finish_attend", node, (query,), out, sizes=sizes, numbers=numbers)

    def _gather(self, node: Node) -> None:
        source = self._operand(node.inputs[0])
        self._op("gather", node, (source,), self._allocate(node), sizes={0: node.width})

    def _combine(
        self, node: Node, function: str | None = None, multiply: bool = False,
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> None:  # fmt: skip
        if any(view.width != node.width for view in node.inputs):
            raise NotStatic("it combines values of different widths")
        inputs = tuple(self._operand(view) for view in node.inputs)
        out = self._allocate(node, self._packs(node))
        data = {"function": function}
        sizes = {0: node.width, 1: int(multiply)}
        self._op("combine", node, inputs, out, sizes=sizes, numbers=scales, data=data)

    def _add(self, node: Node) -> None:
        self._combine(node)

    def _mul(self, node: Node) -> None:
        self._combine(node, multiply=True)

    def _scale(self, node: Node) -> None:
        self._combine(node, scales=(node.data["by"], 0.0))

    def _activation(self, node: Node) -> None:
        self._combine(node, function=node.data["function"])

    def _cat(self, node: Node) -> None:
        raise NotStatic("it joins values")


def parts_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers whose outputs a product gives, one after another."""
    return [data["gate"], data["partner"]] if "gate" in data else list(data["parts"])


def _siblings(graph: Graph) -> dict[Node, list[Node]]:
    """Plain linears that read the same value: one product gives all of theirs."""
    groups: dict[tuple[Node, int, int, bool], list[Node]] = {}
    for node in graph.nodes:
        if node.kind == "linear" and len(node.inputs) == 1 and "function" not in node.data:
            view = node.inputs[0]
            groups.setdefault((view.node, view.offset, view.width, node.wanted), []).append(node)
    return {node: group for group in groups.values() for node in group}


def _share_buffers(ops: list[Op]) -> list[Buffer]:
    """Number the buffers so that two which are never needed at once may have the same memory."""
    last: dict[Buffer, int] = {}
    for place, op in enumerate(ops):
        for where in (*op.inputs, op.out):
            if where.buffer is not None:
                last[where.buffer] = place
    shapes: list[Buffer] = []
    free: dict[tuple[int, int], list[int]] = {}
    for place, op in enumerate(ops):
        buffers = [where.buffer for where in (*op.inputs, op.out) if where.buffer is not None]
        for buffer in buffers:
            if buffer.number < 0:
                numbers = free.get((buffer.width, buffer.kind))
                if numbers:
                    buffer.number = numbers.pop()
                else:
                    buffer.number = len(shapes)
                    shapes.append(buffer)
        for buffer in dict.fromkeys(buffers):
            if last[buffer] == place:
                free.setdefault((buffer.width, buffer.kind), []).append(buffer.number)
    return shapes
