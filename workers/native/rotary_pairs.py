"""Fuse rotary embedding (Su et al., 2021) that is written for the two numbers of its pairs.

That is cat(a * cos - b * sin, b * cos + a * sin), where a and b are the halves of a head (as in
gpt-oss), or its even and its odd numbers (as in DeepSeek-V3). The latter come out in another order.
It is rotated in place in the order that it has, which changes no score if queries and keys are
treated alike.
"""

from collections.abc import Mapping

from headrace.workers.native.graph import Node, NotStatic, RowView, merge_dims

Users = Mapping[Node, list[Node]]

HALVES, NEIGHBOURS = 1, 2  # the numbers of a pair, in the data of a rotate node


def fuse_rotary_pairs(node: Node, users: Users) -> tuple[RowView | None, Node | None]:
    """Return the view that replaces a concatenation, and the node that rotates it in place."""
    if node.kind != "cat" or len(node.inputs) != 2:
        return None, None
    difference, total = (view.node for view in node.inputs)
    if difference.kind != "sub" or total.kind != "add":
        return None, None
    products = [view.node for view in (*difference.inputs, *total.inputs)]
    if any(product.kind != "mul" for product in products):
        return None, None
    factors = [_with_table(product) for product in products]
    if None in factors:
        return None, None
    (a, cos), (b, sin), *rest = [factor for factor in factors if factor is not None]
    others = {(_key(x), _key(table)) for x, table in rest}
    if others != {(_key(b), _key(cos)), (_key(a), _key(sin))}:
        return None, None
    x, data = _heads(a, b, cos)
    readers = set(products)
    if any(view.overlaps(x) for user in users[x.node] if user not in readers
           for view in user.inputs):  # fmt: skip
        raise NotStatic("it reads numbers as they were before their rotary embedding")
    if data["pairs"] == NEIGHBOURS and not _makes_scores_only(node, users):
        raise NotStatic("it reorders numbers by a rotary embedding")
    return x, Node("rotate", (x, cos, sin), 0, node.logit_rows_only, data)


def _with_table(product: Node) -> tuple[RowView, RowView] | None:
    """Return the factors of a product, the table last; None if not one of them is a table."""
    views = sorted(product.inputs, key=lambda view: view.node.kind == "table")
    if len(views) != 2 or [view.node.kind == "table" for view in views] != [False, True]:
        return None
    return views[0], views[1]


def _key(view: RowView) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    return id(view.node), view.offset, view.dims


def _heads(a: RowView, b: RowView, cos: RowView) -> tuple[RowView, dict[str, int]]:
    """Return the view of the heads' rotated numbers, and the data of their rotation."""
    half, step = cos.width, a.dims[-1][1] if a.dims else 1
    pairs = {half: HALVES, 1: NEIGHBOURS}.get(b.offset - a.offset) if half > 1 else HALVES
    count = a.width // half
    stride = 2 * half
    if a.dims and a.dims[-1][0] == half and count > 1:
        stride = a.dims[0][1]
    same = a.node is b.node and a.dims == b.dims and len(a.dims) <= 2
    if not same or pairs is None or step != pairs or cos.offset or not cos.is_dense:
        raise NotStatic("its rotary embedding has an unknown layout")
    outer = [(count, stride)] if count > 1 else []
    x = RowView(a.node, a.offset, merge_dims([*outer, (2 * half, 1)]))
    return x, {"heads": count, "dim": stride, "rotated": 2 * half, "pairs": pairs}


def _makes_scores_only(node: Node, users: Users) -> bool:
    """Return whether a value is only part of queries and keys."""
    for user in users[node]:
        if user.kind == "attend":
            if user.inputs[2].node is node:
                return False
        elif user.kind not in ("cat", "assemble", "copy") or not _makes_scores_only(user, users):
            return False
    return True
