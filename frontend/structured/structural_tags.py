"""Structural tags: free text in which the text between certain tags must conform to a schema.

The older form lists structures (begin, schema, end) and triggers. The newer form is a tree of
formats; the formats that a grammar can express exactly are supported.
"""

import json
from collections.abc import Callable
from typing import Any, TypeGuard

from llguidance import StructTag

from headrace.frontend.structured.checked_schema import WHITESPACE, checked_schema

_ANY_TEXT = r"/(.|\n)*/"


def tags_grammar(definition: Any) -> str:
    """Return the grammar of a structural tag.

    Raises ValueError, with the reason, if it is invalid.
    """
    if not isinstance(definition, dict):
        raise ValueError("a structural tag must be an object")
    if definition.get("format") is not None:
        return _FormatTree().grammar(definition["format"])
    structures, triggers = definition.get("structures"), definition.get("triggers")
    if not (_is_nonempty_list(structures) and _is_nonempty_list(triggers)):
        raise ValueError("a structural tag needs a format, or lists of structures and triggers")
    tags = [_struct_tag(structure, triggers) for structure in structures]
    return StructTag.to_grammar(tags, assume_special=False)


def _is_nonempty_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and bool(value)


def _struct_tag(structure: Any, triggers: Any) -> StructTag:
    begin, end = _string_field(structure, "begin"), _string_field(structure, "end")
    matching = [t for t in triggers if isinstance(t, str) and t and begin.startswith(t)]
    if not matching:
        raise ValueError("each structure must begin with a trigger")
    schema = structure.get("schema")
    if not isinstance(schema, dict):
        structure = {"schema": {}}
    return StructTag(
        trigger=max(matching, key=len), begin=begin, grammar=_schema(structure, "schema"), end=end
    )


def _schema(node: Any, name: str) -> dict[str, Any]:
    """Return a schema that can be enforced, with bounded white space unless it says otherwise."""
    schema = checked_schema(_field(node, name, dict))
    return {**schema, "x-guidance": {"whitespace_pattern": WHITESPACE, **_own_spacing(schema)}}


def _own_spacing(schema: dict[str, Any]) -> dict[str, Any]:
    spacing = schema.get("x-guidance", {})
    if not isinstance(spacing, dict):
        raise ValueError("'x-guidance' must be an object")
    return spacing


class _FormatTree:
    """Writes a tree of formats as the rules of one Lark grammar."""

    def __init__(self) -> None:
        self._rules: list[str] = []
        self._write: dict[str, Callable[[dict[str, Any]], str]] = {
            "const_string": lambda node: _quoted(_string_field(node, "value")),
            "json_schema": lambda node: "%json " + json.dumps(_schema(node, "json_schema")),
            "regex": lambda node: self._terminal(
                f"/{_escape_slashes(_string_field(node, 'pattern'))}/"
            ),
            "any_text": lambda node: self._terminal(_ANY_TEXT),
            "sequence": lambda node: " ".join(self._child_rules(node, "elements")) or '""',
            "or": lambda node: "(" + " | ".join(self._child_rules(node, "elements")) + ")",
            "tag": self._tag,
            "triggered_tags": self._triggered_tags,
        }

    def grammar(self, root: Any) -> str:
        start = self._node(root)
        return "%llguidance {}\n" + "\n".join([f"start: {start}", *self._rules]) + "\n"

    def _node(self, node: Any) -> str:
        """Write a format as a rule and return the name of the rule."""
        kind = node.get("type") if isinstance(node, dict) else None
        write = self._write.get(kind) if isinstance(kind, str) else None
        if write is None:
            raise ValueError(f"formats of type {str(kind)[:40]!r} are not supported")
        return self._rule(write(node))

    def _rule(self, body: str, options: str = "") -> str:
        name = f"rule_{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def _terminal(self, body: str) -> str:
        name = f"TERM_{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _child_rules(self, node: dict[str, Any], field: str) -> list[str]:
        return [self._node(child) for child in _field(node, field, list)]

    def _tag(self, node: dict[str, Any]) -> str:
        """Return a rule body: begin, content and end. Free text ends at the first end tag."""
        return f"{_quoted(_string_field(node, 'begin'))} {self._content_and_end(node)}"

    def _content_and_end(self, node: dict[str, Any]) -> str:
        content, end = _field(node, "content", dict), _string_field(node, "end")
        if content.get("type") != "any_text" or not end:
            return f"{self._node(content)} {_quoted(end)}"
        return self._rule(_ANY_TEXT, f"[suffix={_quoted(end)}]")

    def _triggered_tags(self, node: dict[str, Any]) -> str:
        """Return a rule body: free text in which each trigger begins one of the tags."""
        triggers, tags = _field(node, "triggers", list), _field(node, "tags", list)
        alternatives = []
        for trigger in triggers:
            if not isinstance(trigger, str) or not trigger:
                raise ValueError("triggers must be strings")
            continuations = [
                f"{_quoted(begin[len(trigger) :])} {self._content_and_end(tag)}"
                for tag in tags
                if (begin := _string_field(tag, "begin")).startswith(trigger)
            ]
            if continuations:
                lead = self._rule(f"TEXT {_quoted(trigger)}", "[lazy]")
                alternatives.append(f"{lead} ({' | '.join(continuations)})")
        if not alternatives:
            raise ValueError("no tag begins with a trigger")
        if "TEXT: " + _ANY_TEXT not in self._rules:
            self._rules.append("TEXT: " + _ANY_TEXT)
        any_tag = f"({' | '.join(alternatives)})"
        repeated = f"{any_tag}+" if node.get("at_least_one") else f"{any_tag}*"
        return any_tag if node.get("stop_after_first") else f"{repeated} TEXT"


def _field(node: Any, name: str, kind: type) -> Any:
    value = node.get(name) if isinstance(node, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{name!r} is missing in a format")
    return value


def _string_field(node: Any, name: str) -> str:
    value: str = _field(node, name, str)
    return value


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escape_slashes(pattern: str) -> str:
    """Return a regular expression as it is written between slashes."""
    return pattern.replace("\\/", "/").replace("/", "\\/").replace("\n", "\\n")
