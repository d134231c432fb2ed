"""Write arguments as JSON whose values stand in the output as text."""

import json
from collections.abc import Callable

from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source
from headrace.frontend.chat.tools.tool_schemas import STRING, json_value


class TypedArguments:
    """Writes the arguments of one call, which it begins.

    Values get the types that the request's tools say; strings are passed on as they come.
    """

    def __init__(self, output: ParserOutput, name: str, call_id: str | None = None) -> None:
        output.begin_call(name, call_id)
        self._output, self._name = output, name
        self._count = 0

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
        types: the types of the value, where the format says so; None: those of the schema.
        """
        types = types or self._output.tools.types(self._name, key)
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
        self._output.arguments("}" if self._count else "{}")

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
