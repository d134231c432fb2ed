"""Whether a template takes a message's content as one text or as a list of parts."""

from jinja2 import nodes


def expects_parts(template: nodes.Template) -> bool:
    """Whether the template loops over the content of messages, under that name or another."""
    names = {
        target.name
        for assign in template.find_all(nodes.Assign)
        if isinstance(target := assign.target, nodes.Name) and _is_content(assign.node, set())
    }
    return any(_is_content(loop.iter, names) for loop in template.find_all(nodes.For))


def _is_content(node: nodes.Node | None, names: set[str]) -> bool:
    """Whether an expression is `message.content`, `message["content"]`, or one of these names;
    filters and slices make no difference."""
    while isinstance(node, nodes.Filter):
        node = node.node
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Slice):
            return _is_content(node.node, names)
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return False
