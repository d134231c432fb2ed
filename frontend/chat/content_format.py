"""Detect whether a template expects message content as a string or as a list of parts."""

from jinja2 import nodes


def expects_parts(template: nodes.Template) -> bool:
    """Return whether the template loops over the content of messages, under any name.

    A name that may also be another member of a message, such as its tool calls, says nothing.
    """
    aliases: set[str] = set()
    others: set[str] = set()
    for assign in template.find_all(nodes.Assign):
        if isinstance(target := assign.target, nodes.Name):
            if _is_content(assign.node, set()):
                aliases.add(target.name)
            elif isinstance(assign.node, (nodes.Getattr, nodes.Getitem)):
                others.add(target.name)
    aliases -= others
    return any(_is_content(loop.iter, aliases) for loop in template.find_all(nodes.For))


def _is_content(node: nodes.Node | None, aliases: set[str]) -> bool:
    """Return whether an expression is `message.content`, `message["content"]` or an alias of it.

    Filters and slices make no difference.
    """
    while isinstance(node, nodes.Filter):
        node = node.node
    if isinstance(node, nodes.Name):
        return node.name in aliases
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Slice):
            return _is_content(node.node, aliases)
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return False
