"""Lower a rewritten graph to instructions over buffers (see src/program.h).

A node's value gets a buffer of its own width, in float32, or in the type of the products if only
products read it. Buffers whose values are no longer needed are reused.
"""

from collections.abc import Callable, Collection
from typing import Any

from headrace.protocol.config import Quantization
from headrace.workers.native.graph import Graph, Node, NotStatic, RowView
from headrace.workers.native.instructions import (
    Buffer,
    BufferKind,
    CacheKind,
    Lowered,
    Op,
    Operand,
    share_buffers,
)
from headrace.workers.native.library import Operation
from headrace.workers.native.node_parts import head_dims, parts_of, siblings_in
from headrace.workers.native.weight_format import WeightFormat, format_of, order_key
from headrace.workers.quantized.formats import BLOCK

_LOOKED_UP = ("tokens", "positions", "types", "features")  # as numbered in src/row_operations.h
_ROUNDED_KINDS = (BufferKind.INT8, BufferKind.ROUNDED)


def lower(
    graph: Graph,
    per_word: int,
    quantization: Quantization | None = None,
    adaptable: Collection[int] = (),
) -> Lowered:
    """Lower a graph to instructions.

    per_word: how many numbers of a product buffer make a word of 32 bits (2 for bfloat16).
    adaptable: ids of the weights that adapters may change.

    The head's rows are never rounded to 8 bits: their rounding would go straight into the logits.
    Raises NotStatic if no instruction computes a node.
    """
    lowering = _Lowering(graph, per_word, quantization, adaptable)
    for node in graph.nodes:
        lowering.emit(node)
    return Lowered(
        tuple(lowering.ops),
        tuple(share_buffers(lowering.ops)),
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
        self._quantization = quantization
        self._graph = graph
        self._users = graph.users()
        self._operands: dict[Node, Operand] = {}
        self._converted: dict[tuple[Node, int, str], tuple[Operand, ...]] = {}
        self._siblings = siblings_in(graph, self._format_for)

    def emit(self, node: Node) -> None:
        getattr(self, f"_{node.kind}")(node)

    # Operands of values.

    def _allocate(self, node: Node, packed: bool = False) -> Operand:
        is_output = node is self._graph.output
        kind = BufferKind.PRODUCT if packed else BufferKind.FLOAT32
        operand = Operand(None if is_output else Buffer(node.width, kind))
        self._operands[node] = operand
        return operand

    def _packs(self, node: Node) -> bool:
        """Return whether only products read the value, all of it, and its words are whole."""
        users = self._users[node]
        reads = [view for user in users for view in user.inputs[:1] if view.node is node]
        return (
            bool(users)
            and len(reads) == len(users)
            and all(user.kind in ("linear", "gated", "experts") for user in users)
            and not any(format.rounds_rows for user in users for format in self._formats(user))
            and all(view.is_whole for view in reads)
            and node.width % self._per_word == 0
        )

    def _operand(self, view: RowView) -> Operand:
        if not view.is_dense:
            raise NotStatic("it reads numbers that are not contiguous")
        operand = self._operands.get(view.node)
        if operand is None:
            raise NotStatic("it reads a table of positions other than to rotate by it")
        if operand.buffer is not None and operand.buffer.kind != BufferKind.FLOAT32:
            raise NotStatic("it reads rounded numbers")
        return Operand(operand.buffer, operand.offset + view.offset)

    def _head_operand(self, view: RowView, dim: int) -> tuple[Operand, int]:
        """Return the operand of heads of `dim` numbers, and the stride between heads."""
        if view.is_dense:
            return self._operand(view), dim
        if len(view.dims) == 2 and view.dims[1] == (dim, 1):
            start = RowView(view.node, view.offset, ((dim, 1),))
            return self._operand(start), view.dims[0][1]
        raise NotStatic("its heads have an unknown layout")

    def _format_for(self, node: Node) -> WeightFormat:
        """Return the format of a linear's weight."""
        if node.data.get("exact"):
            return WeightFormat.FLOAT
        return self._format_of(node.data["weight"], node)

    def _format_of(self, weight: Any, node: Node) -> WeightFormat:
        """Return the format of one of a product's weights."""
        output = self._graph.output
        is_head = output is not None and node.logit_rows_only and node.width == output.width
        return format_of(weight, self._quantization, is_head)

    def _formats(self, node: Node) -> set[WeightFormat]:
        """Return the formats of a product's weights."""
        if node.kind == "experts":
            return {format_of(node.data["experts"].gate.tensor, self._quantization)}
        return {self._format_of(part["weight"], node) for part in parts_of(node.data)}

    def _product_input(
        self, node: Node, weight_format: WeightFormat, weight: Any = None
    ) -> tuple[Operand, ...]:
        """Return the operands of a product's input: the rows, converted if they were not yet, and
        for 8-bit rows their scales.

        weight: one of the product's, which may want a row's numbers in another order.
        """
        view = node.inputs[0]
        operand = self._operands[view.node]
        if operand.buffer is not None and operand.buffer.kind == BufferKind.PRODUCT:
            return (operand,)
        convert = self._conversion(weight_format)
        key = (view.node, view.offset, convert.__name__ + order_key(weight))
        converted = self._converted.get(key)
        if converted is None:
            source = self._operand(view)
            if order_key(weight):
                source = self._reordered(view.node, source, view.width, weight)
            converted = convert(view.node, source, view.width)
            self._converted[key] = converted
        return converted

    def _conversion(
        self, weight_format: WeightFormat
    ) -> Callable[[Node, Operand, int], tuple[Operand, ...]]:
        """Return what converts a node's float32 rows for products with weights of this format."""
        if weight_format == WeightFormat.INT8_DYNAMIC:
            return self._rounded
        return self._rounded_blocks if weight_format.is_blocks else self._packed

    def _packed(self, node: Node, source: Operand, width: int) -> tuple[Operand, ...]:
        """Convert rows to the type of the products."""
        padding, copies = -width % self._per_word, _copies(source)
        out = Operand(Buffer(width + padding, BufferKind.PRODUCT, copies))
        self._op("convert", node, (source,), out, sizes={0: width, 1: padding})
        return (out,)

    def _rounded(self, node: Node, source: Operand, width: int) -> tuple[Operand, ...]:
        """Round rows to 8 bits; return also their scales."""
        padding, copies = -width % 4, _copies(source)
        out = Operand(Buffer(width + padding, BufferKind.INT8, copies))
        scales = Operand(Buffer(1, BufferKind.FLOAT32, copies))
        self._op("round", node, (source, scales), out, sizes={0: width, 1: padding})
        return out, scales

    def _rounded_blocks(self, node: Node, source: Operand, width: int) -> tuple[Operand, ...]:
        out = Operand(Buffer(-(-width // BLOCK), BufferKind.ROUNDED))
        self._op("round_blocks", node, (source,), out, sizes={0: width})
        return (out,)

    def _reordered(self, node: Node, source: Operand, width: int, weight: Any) -> Operand:
        out = Operand(Buffer(width))
        self._op("reorder", node, (source,), out, sizes={0: width}, data={"weight": weight})
        return out

    def _op(
        self, kind: Operation, node: Node, inputs: tuple[Operand, ...], out: Operand, **fields: Any
    ) -> None:
        packed = out.buffer is not None and out.buffer.kind == BufferKind.PRODUCT
        self.ops.append(Op(kind, inputs, out, node.logit_rows_only, packed, **fields))

    def _drop_conversions(self, node: Node) -> None:
        """Drop conversions of a value that has been changed in place."""
        self._converted = {k: v for k, v in self._converted.items() if k[0] is not node}

    # One method for each kind of node; see `NodeKind`.

    def _table(self, node: Node) -> None:
        self.tables[node.data["call"], node.data["output"]] = node.width

    def _embedding(self, node: Node) -> None:
        sizes = {0: node.width, 2: _LOOKED_UP.index(node.data["by"]), 3: node.data["offset"]}
        data = {"table": node.data["weight"]}
        self._op("embed", node, (), self._allocate(node), sizes=sizes, data=data)

    def _norm(self, node: Node) -> None:
        source = self._operand(node.inputs[0])
        size = node.data["size"]
        sizes = {0: size, 1: node.width // size, 2: int(node.data["centred"])}
        out = self._allocate(node, self._packs(node))
        data = {key: node.data[key] for key in ("weight", "bias", "plus_one")}
        self._op("norm", node, (source,), out, sizes=sizes, numbers=(node.data["eps"],), data=data)

    def _linear(self, node: Node) -> None:
        if node in self._operands:  # computed together with a sibling
            return
        if len(node.inputs) > 1:
            return self._linear_added(node)
        weight_format = self._format_for(node)
        source = self._product_input(node, weight_format, node.data["weight"])
        fused = self._siblings.get(node, [node])
        function = node.data.get("function")
        if len(fused) == 1:
            out = self._allocate(node, function is not None and self._packs(node))
        else:
            out = Operand(Buffer(sum(sibling.width for sibling in fused)))
            offset = 0
            for sibling in fused:
                self._operands[sibling] = Operand(out.buffer, offset)
                offset += sibling.width
        data = {"parts": [sibling.data for sibling in fused], "function": function}
        self._product(node, weight_format, source, out, 0, data)

    def _linear_added(self, node: Node) -> None:
        weight_format = self._format_for(node)
        source = self._product_input(node, weight_format, node.data["weight"])
        target = self._operand(node.inputs[1])
        data = {"parts": [node.data], "function": None}
        self._product(node, weight_format, source, target, 1, data, node.data["factor"])
        self._drop_conversions(node.inputs[1].node)

    def _gated(self, node: Node) -> None:
        formats, weights = self._formats(node), [part["weight"] for part in parts_of(node.data)]
        if len(formats) > 1 or len(set(map(order_key, weights))) > 1:
            return self._gated_apart(node)
        (weight_format,) = formats
        source = self._product_input(node, weight_format, weights[0])
        out = self._allocate(node, self._packs(node))
        self._product(node, weight_format, source, out, 2, dict(node.data))

    def _gated_apart(self, node: Node) -> None:
        """Compute a gate and its partner in two products, as their weights' formats, or
        orders of their inputs, differ."""
        outs = []
        for part in parts_of(node.data):
            weight_format = self._format_of(part["weight"], node)
            source = self._product_input(node, weight_format, part["weight"])
            outs.append(Operand(Buffer(node.width)))
            function = None if outs[1:] else node.data["function"]
            data = {"parts": [part], "function": function}
            self._product(node, weight_format, source, outs[-1], 0, data)
        out = self._allocate(node, self._packs(node))
        sizes = {0: node.width, 1: 1}
        data = {"function": None}
        self._op("combine", node, tuple(outs), out, sizes=sizes, numbers=(1.0, 1.0), data=data)

    def _product(
        self, node: Node, weight_format: WeightFormat, source: tuple[Operand, ...], out: Operand,
        mode: int, data: dict[str, Any], factor: float = 1.0,
    ) -> None:  # fmt: skip
        words = self._words(weight_format, node.inputs[0].width)
        is_adapted = all(id(part["weight"]) in self._adaptable for part in parts_of(data))
        if is_adapted:
            self._shrink(node, source[0])
        sizes = {1: words, 2: mode, 4: weight_format, 5: len(self.adapted) if is_adapted else -1}
        self._op("linear", node, source, out, sizes=sizes, numbers=(factor,), data=data)
        if is_adapted:
            self.adapted.append(self.ops[-1])

    def _shrink(self, node: Node, source: Operand) -> None:
        """Multiply a product's rows with the adapters' down matrices; 8-bit rows are read before
        they are rounded."""
        is_int8 = source.buffer is not None and source.buffer.kind in _ROUNDED_KINDS
        operand = self._operand(node.inputs[0]) if is_int8 else source
        sizes = {0: node.inputs[0].width, 5: len(self.adapted)}
        self._op("shrink", node, (operand,), operand, sizes=sizes)

    def _route(self, node: Node) -> None:
        """Compute a row's weights, and behind them the numbers of its experts."""
        kind = node.data["kind"]
        out = Operand(Buffer(2 * kind.count))
        self._operands[node] = out
        sizes = {0: node.data["experts"], 1: kind.count, 2: int(kind.sigmoid)}
        sizes |= {3: int(kind.normalized), 4: kind.groups, 5: kind.kept_groups}
        sizes[6] = int(kind.two_best)
        data = {"choice_bias": node.data["choice_bias"]}
        inputs = (self._operand(node.inputs[0]),)
        self._op("route", node, inputs, out, sizes=sizes, numbers=(kind.factor,), data=data)

    def _chosen(self, node: Node) -> None:
        weights = self._operand(node.inputs[0])
        self._operands[node] = Operand(weights.buffer, weights.offset + node.width)

    def _experts(self, node: Node) -> None:
        """Sort a step's pairs of a row and an expert by experts, and multiply the pairs' rows."""
        experts, copies = node.data["experts"], node.inputs[1].width
        (weight_format,), view = self._formats(node), node.inputs[0]
        routes = tuple(self._operand(view) for view in node.inputs[1:])
        sizes = {0: experts.gate.shape[0], 1: copies}
        self._op("sort_pairs", node, routes, routes[0], sizes=sizes)
        if weight_format.is_blocks:
            rows = self._rounded_pairs(
                node, self._operand(view), view.width, copies, of_pairs=False
            )
        else:
            source = self._product_input(node, weight_format)
            rows = tuple(self._copied(node, operand, copies) for operand in source)
        down_format = format_of(experts.down.tensor, self._quantization)
        inner = self._experts_gated(node, (weight_format, down_format), rows, copies)
        out = self._allocate(node)
        data = {"parts": [(experts.down, experts.down_bias)], "function": None}
        sizes = {1: self._words(down_format, experts.down.shape[2]), 4: down_format, 5: -1}
        self._op("experts_down", node, inner, out, sizes=sizes, data=data)

    def _experts_gated(
        self, node: Node, formats: tuple[WeightFormat, WeightFormat], rows: tuple[Operand, ...],
        copies: int,
    ) -> tuple[Operand, ...]:  # fmt: skip
        """Multiply rows with gates and partners; return the products as input of the next ones."""
        weight_format, down_format = formats
        experts = node.data["experts"]
        gate, (width, inputs) = experts.kind, experts.gate.shape[1:]
        packs = not down_format.rounds_rows and width % self._per_word == 0
        kind = BufferKind.PRODUCT if packs else BufferKind.FLOAT32
        out = Operand(Buffer(width, kind, copies))
        parts = [(experts.gate, experts.gate_bias), (experts.partner, experts.partner_bias)]
        data = {"parts": parts, "function": gate.function}
        sizes = {1: self._words(weight_format, inputs), 2: 2, 4: weight_format, 5: -1}
        sizes[7] = int(gate.limit > 0)
        numbers = (gate.alpha, gate.limit)
        self._op("experts_up", node, rows, out, sizes=sizes, numbers=numbers, data=data)
        if packs:
            return (out,)
        if down_format.is_blocks:
            return self._rounded_pairs(node, out, width, copies, of_pairs=True)
        return self._conversion(down_format)(node, out, width)

    def _copied(self, node: Node, rows: Operand, copies: int) -> Operand:
        """Copy each row once for each of its experts, in the order of the experts."""
        assert rows.buffer is not None
        out = Operand(Buffer(rows.buffer.width, rows.buffer.kind, copies))
        self._op("copy_rows", node, (rows,), out)
        return out

    def _rounded_pairs(
        self, node: Node, rows: Operand, width: int, copies: int, *, of_pairs: bool
    ) -> tuple[Operand, ...]:
        """Round the rows of pairs in blocks, those of each expert together.

        of_pairs: whether there is a row for each pair already, or only for each row of the step.
        """
        out = Operand(Buffer(-(-width // BLOCK), BufferKind.ROUNDED, copies))
        self._op("round_pairs", node, (rows,), out, sizes={0: width, 1: int(of_pairs)})
        return (out,)

    def _words(self, weight_format: WeightFormat, inputs: int) -> int:
        """Return the words, or blocks, of an output's weights."""
        per_word = 4 if weight_format == WeightFormat.INT8_DYNAMIC else self._per_word
        return -(-inputs // (BLOCK if weight_format.is_blocks else per_word))

    def _rotate(self, node: Node) -> None:
        x, cos, sin = node.inputs
        for user in self._users[x.node]:
            if user.kind == "rotate" and user is not node and user.inputs[0].overlaps(x):
                raise NotStatic("it rotates the same numbers twice")
        tables = [(view.node.data["call"], view.node.data["output"]) for view in (cos, sin)]
        pairs = node.data.get("pairs", 0)
        whole = all(view.is_whole or (pairs and view.offset == 0) for view in (cos, sin))
        if not whole or cos.width != sin.width or cos.node.width != sin.node.width:
            raise NotStatic("rotary embedding with a part of a table")
        indices = [list(self.tables).index(table) for table in tables]
        sizes = {0: node.data["heads"], 1: node.data["dim"], 2: node.data["rotated"]}
        sizes |= {3: indices[0], 4: indices[1], 5: cos.node.width, 6: pairs}
        operand = self._operands[x.node]
        out = Operand(operand.buffer, operand.offset + x.offset)
        self._op("rotate", node, (out,), out, sizes=sizes)
        self._drop_conversions(x.node)

    def _attend(self, node: Node) -> None:
        names = ("heads", "kv_heads", "key_dim", "value_dim", "window", "layer")
        sizes = {index: node.data[name] for index, name in enumerate(names)}
        key_dim = node.data["key_dim"]
        sizes[8] = node.data["cache"]
        query, query_stride = self._head_operand(node.inputs[0], key_dim)
        numbers = (node.data["scaling"], node.data["softcap"])
        self.num_layers = max(self.num_layers, node.data["layer"] + 1)
        if len(node.inputs) > 1:
            self._write(node, node.inputs[1:], sizes, numbers)
        out = self._allocate(node, self._packs(node))
        sizes[6] = query_stride
        if node.data.get("scored"):
            scored = {"places": node.data["scored"]}
            self._op("scores", node, (query,), query, sizes=sizes, numbers=numbers, data=scored)
        for kind in ("attend", "finish_attend"):
            data = {name: node.data[name] for name in ("sinks", "bias")}
            self._op(kind, node, (query,), out, sizes=sizes, numbers=numbers, data=data)

    def _store(self, node: Node) -> None:
        sizes = {0: node.data["kv_heads"], 1: node.data["kv_heads"], 2: node.data["key_dim"]}
        sizes |= {3: node.data["value_dim"], 5: node.data["layer"], 8: int(CacheKind.SOURCE)}
        self._write(node, node.inputs, sizes, (1.0, 0.0))

    def _write(
        self, node: Node, views: tuple[RowView, ...], sizes: dict[int, int],
        numbers: tuple[float, ...],
    ) -> None:  # fmt: skip
        """Write keys and values, of which there are views, to a layer's cache."""
        keys, key_stride = self._head_operand(views[0], sizes[2])
        values, value_stride = self._head_operand(views[1], sizes[3])
        strides = {6: key_stride, 7: value_stride}
        self._op("write", node, (keys, values), keys, sizes=sizes | strides, numbers=numbers)

    def _gather(self, node: Node) -> None:
        source = self._operand(node.inputs[0])
        self._op("gather", node, (source,), self._allocate(node), sizes={0: node.width})

    def _combine(
        self, node: Node, function: str | None = None, multiply: bool = False,
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> None:  # fmt: skip
        views = sorted(node.inputs, key=lambda view: -view.width)
        scales_row = multiply and views[1].width == 1 < node.width
        if any(view.width != node.width for view in views[: 1 if scales_row else 2]):
            raise NotStatic("it combines values of different widths")
        inputs = tuple(self._operand(view) for view in views)
        out = self._allocate(node, self._packs(node))
        data = {"function": function}
        sizes = {0: node.width, 1: int(multiply), 4: int(scales_row)}
        self._op("combine", node, inputs, out, sizes=sizes, numbers=scales, data=data)

    def _add(self, node: Node) -> None:
        self._combine(node)

    def _sub(self, node: Node) -> None:
        self._combine(node, scales=(1.0, -1.0))

    def _assemble(self, node: Node) -> None:
        """Copy the parts of a value from where they are, head by head."""
        out = self._allocate(node)
        if sum(view.width for view in node.inputs) != node.width:
            raise NotStatic("it leaves numbers of new memory as they are")
        for view, (offset, dims) in zip(node.inputs, node.data["targets"], strict=True):
            source, target = (head_dims(part) for part in (view.dims, dims))
            if source[0] != target[0] or source[2] != target[2]:
                raise NotStatic("it reorders numbers by a copy")
            start = RowView(view.node, view.offset, ((source[2], 1),))
            sizes = {0: source[0], 1: source[1], 2: target[1], 3: source[2]}
            to = Operand(out.buffer, out.offset + offset)
            self._op("copy_heads", node, (self._operand(start),), to, sizes=sizes)

    def _mul(self, node: Node) -> None:
        self._combine(node, multiply=True)

    def _scale(self, node: Node) -> None:
        self._combine(node, scales=(node.data["factor"], 0.0))

    def _activation(self, node: Node) -> None:
        self._combine(node, function=node.data["function"])

    def _cat(self, node: Node) -> None:
        raise NotStatic("it concatenates values")


def _copies(operand: Operand) -> int:
    return 1 if operand.buffer is None else operand.buffer.copies
