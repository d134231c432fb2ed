"""Write arguments as JSON whose values stand in the output as text."""

import json
from collections.abc import Callable

from headrace.frontend.chat.tools.json_repair import repaired_json
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source
from headrace.frontend.chat.tools.tool_schemas import STRING, json_value

_WRAPPERS = ("arguments", "parameters", "properties", "input")


class TypedArguments:
    """Writes the arguments of one call, which it begins.

    Values get the types that the request's tools say; strings are passed on as they come.
    """

    def __init__(self, output: ParserOutput, name: str, call_id: str | None = None) -> None:
        output.begin_call(name, call_id)
        self._output, self._name = output, name
        self._count = 0
        self._is_whole = False  # one value has been all the arguments

    def read_text(
        self,
        source: Source,
        key: str,
        ends: Delimiters,
        *,
        trims: bool = False,
        types: frozenset[str] | None = None,
    ) -> Incremental[bool]:
        """Read a value up to one of the delimiters, which is not read.

        Returns False if the text ends before; a value that is not a string is then left out.
        trims: whether a newline before the value and one after it belong to the format.
        types: the types that the output says the value has; None: it says none. Those of the schema
            come first.
        """
        if self._is_whole:
            return bool((yield from source.emit_until(ends, lambda _: None)))
        known = self._output.tools.types(self._name, key, unknown=frozenset())
        if self._may_hold_all(key, known):
            return (yield from self._read_all(source, key, ends, trims=trims))
        types = (known & types if types else known) or known or types or STRING
        if types == STRING:
            return (yield from self._read_string(source, key, ends, trims=trims))
        parts: list[str] = []
        if not (yield from source.emit_until(ends, parts.append)):
            return False
        text = "".join(parts)
        self.add(key, json_value(_trimmed(text) if trims else text, types))
        return True

    def add(self, key: str, value: str) -> None:
        """Add an argument. value: JSON."""
        self.begin(key)
        self._output.arguments(value)

    def begin(self, key: str) -> None:
        """Begin an argument whose value, as JSON, follows."""
        lead = ", " if self._count else "{"
        self._count += 1
        self._output.arguments(f"{lead}{json.dumps(key, ensure_ascii=False)}: ")

    def end(self) -> None:
        """End the call."""
        if self._is_whole:
            return
        self._output.arguments("}" if self._count else "{}")

    def _may_hold_all(self, key: str, known: frozenset[str]) -> bool:
        """Return whether this may be an argument that the function does not have.

        Models that know other formats write all arguments as one.
        """
        is_unknown = not known and self._name in self._output.tools
        return key in _WRAPPERS and is_unknown and self._count == 0

    def _read_all(
        self, source: Source, key: str, ends: Delimiters, *, trims: bool
    ) -> Incremental[bool]:
        parts: list[str] = []
        is_ended = yield from source.emit_until(ends, parts.append)
        text = "".join(parts)
        if text.strip()[:1] == "{":
            self._is_whole = True
            self._output.arguments(repaired_json(text.strip()))
        elif is_ended:
            self.add(key, json_value(_trimmed(text) if trims else text, STRING))
        return bool(is_ended)

    def _read_string(
        self, source: Source, key: str, ends: Delimiters, *, trims: bool
    ) -> Incremental[bool]:
        self.begin(key)
        self._output.arguments('"')
        text = StringWriter(self._output.arguments, trims=trims)
        if not (yield from source.emit_until(ends, text.add)):
            return False
        self._output.arguments('"')
        return True


class StringWriter:
    """Passes text on as the inside of a JSON string.

    trims: whether a newline at the beginning and one at the end are left out.
    """

    def __init__(self, emit: Callable[[str], object], *, trims: bool) -> None:
        self._emit, self._trims = emit, trims
        self._is_begun = False
        self._has_newline = False  # at the end, until more text comes

    def add(self, text: str) -> None:
        """Add text, which is not empty."""
        if self._trims:
            text = self._trim(text)
        if text:
            self._emit(json.dumps(text, ensure_ascii=False)[1:-1])

    def _trim(self, text: str) -> str:
        if not self._is_begun:
            self._is_begun = True
            text = text.removeprefix("\n")
        elif self._has_newline:
            text = "\n" + text
        self._has_newline = text.endswith("\n")
        return text.removesuffix("\n")


def _trimmed(text: str) -> str:
    return text.removeprefix("\n").removesuffix("\n")
