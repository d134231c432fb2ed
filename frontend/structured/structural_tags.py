"""Structural tags: free text in which what stands between certain marks has to keep to a schema.

The older form lists structures (begin, schema, end) and triggers; the newer one is a tree of
formats, of which those are read here that a grammar can say exactly.
"""

import json
from collections.abc import Callable
from typing import Any, TypeGuard

from llguidance import StructTag

_ANY_TEXT = r"/(.|\n)*/"


def tags_grammar(definition: Any) -> str:
    """The grammar of a structural tag. ValueError, with a reason, if it is none."""
    if not isinstance(definition, dict):
        raise ValueError("a structural tag must be an object")
    if definition.get("format") is not None:
        return _Tree().grammar(definition["format"])
    structures, triggers = definition.get("structures"), definition.get("triggers")
    if not (_is_filled(structures) and _is_filled(triggers)):
        raise ValueError("a structural tag needs a format, or lists of structures and triggers")
    tags = [_struct_tag(structure, triggers) for structure in structures]
    return StructTag.to_grammar(tags, assume_special=False)


def _is_filled(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and bool(value)


def _struct_tag(structure: Any, triggers: Any) -> StructTag:
    begin, end = _text(structure, "begin"), _text(structure, "end")
    matching = [t for t in triggers if isinstance(t, str) and t and begin.startswith(t)]
    if not matching:
        raise ValueError("each structure must begin with a trigger")
    schema = structure.get("schema")
    return StructTag(
        trigger=max(matching, key=len),
        begin=begin,
        grammar=schema if isinstance(schema, dict) else {},
        end=end,
    )


class _Tree:
    """Writes the formats of a tree as rules of one Lark grammar."""

    def __init__(self) -> None:
        self._rules: list[str] = []
        self._write: dict[str, Callable[[dict[str, Any]], str]] = {
            "const_string": lambda node: _quoted(_text(node, "value")),
            "json_schema": lambda node: "%json " + json.dumps(_field(node, "json_schema", dict)),
            "regex": lambda node: self._terminal(f"/{_escaped(_text(node, 'pattern'))}/"),
            "any_text": lambda node: self._terminal(_ANY_TEXT),
            "sequence": lambda node: " ".join(self._inner(node, "elements")) or '""',
            "or": lambda node: "(" + " | ".join(self._inner(node, "elements")) + ")",
            "tag": self._tag,
            "triggered_tags": self._triggered,
        }

    def grammar(self, root: Any) -> str:
        start = self._node(root)
        return "%llguidance {}\n" + "\n".join([f"start: {start}", *self._rules]) + "\n"

    def _node(self, node: Any) -> str:
        """The name of a rule for a format."""
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

    def _inner(self, node: dict[str, Any], field: str) -> list[str]:
        return [self._node(each) for each in _field(node, field, list)]

    def _tag(self, node: dict[str, Any]) -> str:
        """begin, content, end. Free text goes on to the first end."""
        return f"{_quoted(_text(node, 'begin'))} {self._ended(node)}"

    def _ended(self, node: dict[str, Any]) -> str:
        content, end = _field(node, "content", dict), _text(node, "end")
        if content.get("type") != "any_text" or not end:
            return f"{self._node(content)} {_quoted(end)}"
        return self._rule(_ANY_TEXT, f"[suffix={_quoted(end)}]")

    def _triggered(self, node: dict[str, Any]) -> str:
        """Free text, in which each trigger begins one of the tags."""
        triggers, tags = _field(node, "triggers", list), _field(node, "tags", list)
        calls = []
        for trigger in triggers:
            if not isinstance(trigger, str) or not trigger:
                raise ValueError("triggers must be strings")
            rests = [
                f"{_quoted(_text(tag, 'begin')[len(trigger) :])} {self._ended(tag)}"
                for tag in tags
                if _text(tag, "begin").startswith(trigger)
            ]
            if rests:
                lead = self._rule(f"TEXT {_quoted(trigger)}", "[lazy]")
                calls.append(f"{lead} ({' | '.join(rests)})")
        if not calls:
            raise ValueError("no tag begins with a trigger")
        if "TEXT: " + _ANY_TEXT not in self._rules:
            self._rules.append("TEXT: " + _ANY_TEXT)
        wanted = f"({' | '.join(calls)})"
        repeated = f"{wanted}+" if node.get("at_least_one") else f"{wanted}*"
        return wanted if node.get("stop_after_first") else f"{repeated} TEXT"


def _field(node: Any, name: str, kind: type) -> Any:
    value = node.get(name) if isinstance(node, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{name!r} is missing in a format")
    return value


def _text(node: Any, name: str) -> str:
    value: str = _field(node, name, str)
    return value


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escaped(pattern: str) -> str:
    """A regular expression as it stands between slashes."""
    return pattern.replace("\\/", "/").replace("/", "\\/").replace("\n", "\\n")
