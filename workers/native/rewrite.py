"""Fuse nodes of a captured graph that one instruction can compute: rotary embedding, gates, sums.

Each pass takes the list of nodes and returns a shorter one. New kinds of nodes:

- rotate (x, cos, sin): rotary embedding in place, for `heads` heads of `dim` numbers, the first
  `rotated` numbers of each. pairs: see headrace.workers.native.rotary_pairs.
- gated (x): activation(x @ gate) * (x @ partner).
- linear with `function`: an activation of its product.
- linear with a second input: its product times `factor`, added to that input in place.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from headrace.workers.native.graph import Graph, Node, NodeKind, NotStatic, RowView, merge_dims
from headrace.workers.native.rotary_pairs import fuse_rotary_pairs

Nodes = list[Node]


def rewrite(graph: Graph) -> Graph:
    """Return the same computation in fewer nodes. Raises NotStatic if copies reorder numbers."""
    nodes = _move_gather_up(list(graph.nodes))
    output = None if graph.output is None else graph.output.view()
    for fuse in (
        _fuse_copy,
        _fuse_rotary,
        lambda node, state: fuse_rotary_pairs(node, state.users),
        _fuse_partial_rotary,
        _fuse_gate,
        _fuse_activation,
        _fuse_residual,
    ):
        nodes, output = _pass(nodes, output, fuse)
    return replace(graph, nodes=tuple(nodes), output=None if output is None else output.node)


_ROW_BY_ROW: set[NodeKind] = {
    "norm",
    "linear",
    "activation",
    "add",
    "sub",
    "mul",
    "scale",
    "copy",
    "gather",
    "route",
    "chosen",
    "experts",
}


def _move_gather_up(nodes: Nodes) -> Nodes:
    """Gather the logit rows as soon as no other row is needed any more.

    That is after the last attention: of a long prompt only one row goes through the nodes after it.
    """
    state = _GraphState(nodes)
    deferred: set[Node] = set()  # whose value is needed for logit rows only
    for node in reversed(nodes):
        users = state.users[node]
        if node.logit_rows_only or (
            users and node.kind in _ROW_BY_ROW and deferred.issuperset(users)
        ):
            deferred.add(node)
    gathered: dict[Node, Node] = {}
    kept: Nodes = []
    replacements: dict[Node, RowView] = {}
    for node in nodes:
        if node not in deferred:
            kept.append(node)
            continue
        if node.kind == "gather" and node.inputs[0].node in deferred:
            replacements[node] = _resolve(node.inputs[0], replacements)
            continue
        if node.kind != "gather":
            for view in node.inputs:
                source = view.node
                if source not in deferred and source not in gathered:
                    gathered[source] = Node("gather", (source.view(),), source.width, True)
                    kept.append(gathered[source])
            gathers = {source: gather.view() for source, gather in gathered.items()}
            node.inputs = tuple(_resolve(v, replacements | gathers) for v in node.inputs)
            node.logit_rows_only = True
        kept.append(node)
    return kept


class _GraphState:
    """The positions and users of nodes, for the fusing functions."""

    def __init__(self, nodes: Nodes) -> None:
        self.positions = {node: index for index, node in enumerate(nodes)}
        self.users: dict[Node, Nodes] = {node: [] for node in nodes}
        for node in nodes:
            for view in node.inputs:
                self.users[view.node].append(node)

    def sole_use(self, view: RowView, kind: NodeKind, user: Node) -> Node | None:
        """Return the view's node if the view is all of it, its kind is `kind`, and only `user`
        reads it."""
        node = view.node
        if node.kind != kind or not view.is_whole or self.users[node] != [user]:
            return None
        return node


# Takes a node; returns the view that replaces its value and the new node that replaces it, if any.
_Rewrite = Callable[[Node, _GraphState], tuple[RowView | None, Node | None]]


def _pass(nodes: Nodes, output: RowView | None, fuse: _Rewrite) -> tuple[Nodes, RowView | None]:
    """Apply a fusing function to each node, then drop the nodes that are not read any more."""
    state = _GraphState(nodes)
    replacements: dict[Node, RowView] = {}
    kept: Nodes = []
    for node in nodes:
        node.inputs = tuple(_resolve(view, replacements) for view in node.inputs)
        view, new = fuse(node, state)
        if new is not None:
            new.inputs = tuple(_resolve(v, replacements) for v in new.inputs)
            kept.append(new)
            replacements[node] = view or new.view()
        elif view is not None:
            replacements[node] = view
        else:
            kept.append(node)
        if view is not None:  # the node's users now read its replacement
            state.users.setdefault(view.node, []).extend(state.users[node])
    output = None if output is None else _resolve(output, replacements)
    return _reachable(kept, output), output


def _resolve(view: RowView, replacements: dict[Node, RowView]) -> RowView:
    target = replacements.get(view.node)
    if target is None:
        return view
    target = _resolve(target, replacements)
    if not target.is_dense:
        if view.is_whole:
            return target
        raise NotStatic("it reorders numbers by a copy")
    return RowView(target.node, target.offset + view.offset, view.dims)


def _reachable(nodes: Nodes, output: RowView | None) -> Nodes:
    needed = {node for node in nodes if node.kind == "store"}
    if output is not None:
        needed.add(output.node)
    for node in reversed(nodes):
        target = node.target
        if target is not None and target in needed:
            needed.add(node)
        if node in needed:
            needed.update(view.node for view in node.inputs)
    return [node for node in nodes if node in needed]


def _fuse_copy(node: Node, state: _GraphState) -> tuple[RowView | None, Node | None]:
    if node.kind != "copy":
        return None, None
    source = node.inputs[0]
    if source.width != node.width or not source.is_dense:
        raise NotStatic("it reorders numbers by a copy")
    return source, None


def _fuse_rotary(node: Node, state: _GraphState) -> tuple[RowView | None, Node | None]:
    """Fuse x * cos + cat(-second half of x, first half) * sin, in either order of the sum."""
    if node.kind != "add":
        return None, None
    for straight, crossed in (node.inputs, node.inputs[::-1]):
        products = [view.node for view in (straight, crossed)]
        if any(p.kind != "mul" or not _has_table(p) for p in products):
            continue
        x, cos = _with_table(products[0])
        rotated, sin = _with_table(products[1])
        size = cos.width
        if rotated.node.kind == "cat" and _is_rotate_half(rotated.node, x, size):
            readers = {products[0], rotated.node, rotated.node.inputs[0].node}
            if any(_overlap_of(user, x) for user in state.users[x.node] if user not in readers):
                raise NotStatic("it reads numbers as they were before their rotary embedding")
            heads = x.width // size
            dim = x.dims[-2][1] if len(x.dims) > 1 else size
            if len(x.dims) > 2 or (len(x.dims) > 1 and x.dims[-1] != (size, 1)):
                raise NotStatic("its rotary embedding has an unknown layout")
            data = {"heads": heads, "dim": dim, "rotated": size}
            new = Node("rotate", (x, cos, sin), 0, node.logit_rows_only, data)
            return x, new
    return None, None


def _overlap_of(user: Node, x: RowView) -> bool:
    return any(view.overlaps(x) for view in user.inputs)


def _has_table(product: Node) -> bool:
    return sum(view.node.kind == "table" for view in product.inputs) == 1


def _with_table(product: Node) -> tuple[RowView, RowView]:
    first, second = product.inputs
    return (second, first) if first.node.kind == "table" else (first, second)


def _is_rotate_half(cat: Node, x: RowView, size: int) -> bool:
    if len(cat.inputs) != 2 or cat.inputs[0].node.kind != "scale":
        return False
    negated, first = cat.inputs
    if negated.node.data["factor"] != -1.0 or not negated.is_whole:
        return False
    second = negated.node.inputs[0]
    half = size // 2
    outer = x.dims[:-1] if x.dims and x.dims[-1] == (size, 1) else _heads(x, size)
    logit_rows_only = (*outer, (half, 1)) if half > 1 else outer
    return (
        first.node is x.node
        and second.node is x.node
        and first.offset == x.offset
        and second.offset == x.offset + half
        and first.dims == logit_rows_only
        and second.dims == logit_rows_only
    )


def _heads(x: RowView, size: int) -> tuple[tuple[int, int], ...]:
    """Return the outer dimensions of a dense view that is split into heads of `size`."""
    heads = x.width // size
    return ((heads, size),) if heads > 1 else ()


def _fuse_partial_rotary(node: Node, state: _GraphState) -> tuple[RowView | None, Node | None]:
    """Fuse cat(rotated first part of each head, the rest of it): both are in place already."""
    if node.kind != "cat" or len(node.inputs) != 2:
        return None, None
    first, second = node.inputs
    if first.node is not second.node or not first.dims or not second.dims:
        return None, None
    rotated = first.dims[-1][0]
    whole = rotated + second.dims[-1][0]
    outer = first.dims[:-1]
    follows = second.offset == first.offset + rotated and second.dims[:-1] == outer
    if follows and first.dims[-1][1] == second.dims[-1][1] == 1:
        return RowView(first.node, first.offset, merge_dims([*outer, (whole, 1)])), None
    return None, None


def _fuse_gate(node: Node, state: _GraphState) -> tuple[RowView | None, Node | None]:
    """Fuse activation(linear of x) * linear of x, from two linears or the halves of one."""
    if node.kind != "mul":
        return None, None
    for active, partner in (node.inputs, node.inputs[::-1]):
        activation = state.sole_use(active, "activation", node)
        if activation is None:
            continue
        halves = _linear_halves(activation.inputs[0], partner, activation, node, state)
        if halves is not None:
            x, gate, other = halves
            data = {"function": activation.data["function"], "gate": gate, "partner": other}
            return None, Node("gated", (x,), node.width, node.logit_rows_only, data)
    return None, None


def _linear_halves(
    gate: RowView, partner: RowView, activation: Node, product: Node, state: _GraphState
) -> tuple[RowView, dict[str, Any], dict[str, Any]] | None:
    first, second = gate.node, partner.node
    if first.kind != "linear" or second.kind != "linear" or gate.width != partner.width:
        return None
    if first is second:
        readers = {activation, product}
        parts = {gate.offset, partner.offset} == {0, gate.width} and gate.is_dense
        if first.width != 2 * gate.width or not parts or set(state.users[first]) != readers:
            return None
    elif not (
        state.sole_use(gate, "linear", activation)
        and state.sole_use(partner, "linear", product)
        and first.inputs[0].covers(second.inputs[0])
    ):
        return None
    return first.inputs[0], _output_slice(gate), _output_slice(partner)


def _output_slice(view: RowView) -> dict[str, Any]:
    """Return the data of the view's linear, with the outputs that the view takes."""
    return {**view.node.data, "first": view.offset, "count": view.width}


def _fuse_activation(node: Node, state: _GraphState) -> tuple[RowView | None, Node | None]:
    if node.kind != "activation":
        return None, None
    linear = state.sole_use(node.inputs[0], "linear", node)
    if linear is None:
        return None, None
    data = {**linear.data, "function": node.data["function"]}
    return None, Node("linear", linear.inputs, node.width, node.logit_rows_only, data)


def _fuse_residual(node: Node, state: _GraphState) -> tuple[RowView | None, Node | None]:
    """Fuse x + linear, or x + linear * number, if x is not read again."""
    if node.kind != "add":
        return None, None
    for x, product in (node.inputs, node.inputs[::-1]):
        factor = 1.0
        scale = state.sole_use(product, "scale", node)
        reader = node
        if scale is not None:
            factor, product, reader = scale.data["factor"], scale.inputs[0], scale
        linear = state.sole_use(product, "linear", reader)
        if linear is None or "function" in linear.data or len(linear.inputs) > 1:
            continue
        if not x.is_whole or x.width != node.width or x.node.kind in ("table", "rotate"):
            continue
        if x.node not in state.users:
            continue
        if any(state.positions[user] > state.positions[node] for user in state.users[x.node]):
            continue
        data = {**linear.data, "factor": factor}
        return x, Node("linear", (linear.inputs[0], x), 0, node.logit_rows_only, data)
    return None, None
