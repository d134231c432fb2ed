"""Write the rules of arguments that stand in the output one by one, as elements."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from headrace.frontend.chat.tools.parser import ParameterSyntax
from headrace.frontend.chat.tools.tool_schemas import STRING, ToolSchemas

_NAME = "/[^<>\\n\"']{1,100}/"
_PLACE = "\0"  # where a parameter's name is to stand
_DEFINITIONS = ("$defs", "definitions")


class ParameterRules:
    """Writes rules for the parameters of functions.

    json_value: returns a rule body for a value of a schema.
    literal: returns a rule body for a text that may contain single-token delimiters.
    token_ids: ids of those delimiters.
    """

    def __init__(
        self,
        json_value: Callable[[Mapping[str, Any]], str],
        literal: Callable[[str, Mapping[str, int]], str],
        token_ids: Mapping[str, int],
    ) -> None:
        self._json_value, self._token_ids = json_value, token_ids
        self._literal_of = literal
        self.written: list[str] = []

    def _literal(self, text: str) -> str:
        return self._literal_of(text, self._token_ids)

    def body(self, schema: Mapping[str, Any], syntax: ParameterSyntax) -> str:
        """Return the rule body of a function's parameters, in the order of its schema."""
        properties = schema.get("properties")
        required = schema.get("required")
        names = required if isinstance(required, list) else []
        parameters = [
            f"{self._parameter(schema, name, syntax)}{'' if name in names else '?'}"
            for name in (properties if isinstance(properties, dict) else {})
        ]
        return " ".join(parameters) or '""'

    def any(self, syntax: ParameterSyntax) -> str:
        """Return the rule body of parameters of any names, with any values."""
        before, _, after = syntax.begin(_PLACE, STRING).partition(_PLACE)
        value = self._text(syntax.end)
        rule = f"{self._literal(before)} {_NAME} {self._literal(after)} {value}"
        return self._rule(rule) + "*"

    def _parameter(self, schema: Mapping[str, Any], name: str, syntax: ParameterSyntax) -> str:
        types = ToolSchemas({"f": schema}).types("f", name)
        own = schema["properties"][name]
        is_text = not types.isdisjoint(STRING)
        begin = self._literal(syntax.begin(name, types))
        if not is_text:
            definitions = {key: schema[key] for key in _DEFINITIONS if key in schema}
            value = self._rule(self._json_value({**own, **definitions}))
            return self._rule(f"{begin} {value} {self._literal(syntax.end)}")
        options = own.get("enum") if isinstance(own, dict) else None
        if isinstance(options, list) and options and all(isinstance(o, str) for o in options):
            values = " | ".join(_quoted(option) for option in options)
            return self._rule(f"{begin} ({values}) {self._literal(syntax.end)}")
        return self._rule(f"{begin} {self._text(syntax.end)}")

    def _text(self, end: str) -> str:
        """Return a rule of free text up to its end, and of that end."""
        before, token, after = self._split(end)
        if not token:
            return self._rule("/(.|\\n)*/", f"[suffix={_quoted(end)}]")
        # Free text goes on to the token, so what stands before the token is a part of it.
        text = "/(.|\\n)*" + re.escape(before).replace("/", "\\/").replace("\n", "n") + "/"
        return self._rule(f"{text} {self._literal(token)} {self._literal(after)}")

    def _split(self, text: str) -> tuple[str, str, str]:
        """Return what stands before the first token in a text, the token, and what follows it."""
        pattern = "|".join(map(re.escape, self._token_ids))
        before, *rest = re.split(f"({pattern})", text, maxsplit=1) if pattern else [text]
        return (before, rest[0], rest[1]) if rest else (text, "", "")

    def _rule(self, body: str, options: str = "") -> str:
        name = f"parameter_{len(self.written)}"
        self.written.append(f"{name}{options}: {body}")
        return name


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
