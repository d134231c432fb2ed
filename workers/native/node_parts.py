"""Read what a graph's nodes are made of: the layers of products, and heads."""

from collections.abc import Callable
from typing import Any

from headrace.workers.native.graph import Graph, Node, NotStatic
from headrace.workers.native.weight_format import WeightFormat, order_key


def parts_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the layers of a product, or of a node that is one, in the order of their outputs."""
    if "gate" in data:
        return [data["gate"], data["partner"]]
    return list(data["parts"]) if "parts" in data else [data]


def head_dims(dims: tuple[tuple[int, int], ...]) -> tuple[int, int, int]:
    """Return the number of heads, the stride between them and the size of each."""
    if len(dims) == 1 and dims[0][1] == 1:
        return 1, 0, dims[0][0]
    if len(dims) == 2 and dims[1][1] == 1:
        return dims[0][0], dims[0][1], dims[1][0]
    raise NotStatic("its heads have an unknown layout")


def siblings_in(graph: Graph, format_for: Callable[[Node], WeightFormat]) -> dict[Node, list[Node]]:
    """Group plain linears that read the same value and have weights of the same format, and in the
    same order: one product computes them all."""
    groups: dict[tuple[Node, int, int, bool, int, WeightFormat, str], list[Node]] = {}
    stored = 0  # what is stored is computed just before, so that few values wait for that
    for node in graph.nodes:
        stored += node.kind == "store"
        plain = node.kind == "linear" and not {"function", "exact"} & node.data.keys()
        if plain and len(node.inputs) == 1:
            view = node.inputs[0]
            formed = format_for(node), order_key(node.data["weight"])
            place = view.node, view.offset, view.width, node.logit_rows_only
            key = (*place, stored, *formed)
            groups.setdefault(key, []).append(node)
    return {node: group for group in groups.values() for node in group}
