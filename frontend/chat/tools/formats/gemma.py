"""Gemma: calls with an object whose strings stand between marks of their own."""

import re
from typing import ClassVar

from headrace.frontend.chat.tools.formats.glm import is_name_alone
from headrace.frontend.chat.tools.json_calls import skip_closers
from headrace.frontend.chat.tools.json_repair import JsonRepairer, scalar_json
from headrace.frontend.chat.tools.parser import ToolParser, register_tool_parser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source, accept_any
from headrace.frontend.chat.tools.tool_schemas import json_value
from headrace.frontend.chat.tools.typed_arguments import TypedArguments

_NAME = re.compile(r"[^{}<>()\n]*")
_SEPARATORS = re.compile(r"[\s,]*")
_KEY = re.compile(r"[^:<>{}\[\],\s]*")


@register_tool_parser("gemma4")
class GemmaParser(ToolParser):
    """Reads <|tool_call>call:NAME{key:<|"|>text<|"|>,other:1}<tool_call|>.

    start, ends: the tags around a call. quote: the mark around strings.
    """

    start: ClassVar[str] = "<|tool_call>"
    ends: ClassVar[tuple[str, ...]] = ("<tool_call|>", "<turn|>")
    quote: ClassVar[str] = '<|"|>'

    def __init__(self, settings: str = "") -> None:
        super().__init__(settings)
        self.delimiters = (self.start, self.ends[0], self.quote)
        self._watched, self._quotes = Delimiters(self.start), Delimiters(self.quote)
        tags = (*self.ends, self.start)
        self._tags = tags
        self._ends_of_word = Delimiters(",", "}", "]", *tags)

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        while (yield from source.emit_until(self._watched, output.content)):
            source.start_recording()
            source.take(len(self.start))
            yield from self._call(source, output)
            output.content(source.take_recording())

    def _call(self, source: Source, output: ParserOutput) -> Incremental[None]:
        """Read a call up to its end tag; text that is left recorded is content."""
        yield from source.skip_space()
        yield from source.accept("call")
        if not (yield from source.accept(":")):
            return
        name = (yield from source.read_while(_NAME)).strip()
        if not is_name_alone(name, output) or not (yield from source.accept("{")):
            return
        source.stop_recording()
        arguments = TypedArguments(output, name)
        while (yield from self._member(source, output, arguments, name)):
            pass
        if (yield from source.peek()) == "":
            return
        arguments.end()
        yield from skip_closers(source)
        if (yield from accept_any(source, self.ends, or_cut=True)):
            source.stop_recording()

    def _member(
        self, source: Source, output: ParserOutput, arguments: TypedArguments, name: str
    ) -> Incremental[bool]:
        """Read a key and its value. Returns False at the end of the call, or of the text."""
        yield from source.read_while(_SEPARATORS)
        if (yield from source.peek()) in ("", "}"):
            return False
        for tag in self._tags:
            if (yield from source.ahead(tag)):
                return False
        key = yield from self._key(source)
        yield from source.skip_space()
        if not (yield from source.accept(":")):
            if not key and (yield from source.peek()):
                source.take(1)  # nothing that a key begins with
            return True
        yield from source.skip_space()
        yield from self._value(source, output, arguments, (name, key))
        return True

    def _key(self, source: Source) -> Incremental[str]:
        if not (yield from source.accept(self.quote)):
            return (yield from source.read_while(_KEY))
        parts: list[str] = []
        yield from source.emit_until(self._quotes, parts.append)
        yield from source.accept(self.quote)
        return "".join(parts)

    def _value(
        self,
        source: Source,
        output: ParserOutput,
        arguments: TypedArguments,
        place: tuple[str, str],
    ) -> Incremental[None]:
        """Read the value of an argument. place: the names of the function and the argument."""
        key = place[1]
        if (yield from source.accept(self.quote)):
            yield from arguments.read_text(source, key, self._quotes)
            yield from source.accept(self.quote)
        elif (yield from source.peek()) in ("{", "["):
            arguments.begin(key)
            nested = JsonRepairer(source, output.arguments, self._tags, self.quote)
            yield from nested.read()
        else:
            parts: list[str] = []
            if not (yield from source.emit_until(self._ends_of_word, parts.append)):
                return
            word = "".join(parts).strip()
            types = output.tools.types(*place, unknown=frozenset())
            arguments.add(key, json_value(word, types) if types else scalar_json(word))


@register_tool_parser("functiongemma")
class FunctionGemmaParser(GemmaParser):
    """Reads <start_function_call>call:NAME{key:<escape>text<escape>}<end_function_call>."""

    start = "<start_function_call>"
    ends = ("<end_function_call>",)
    quote = "<escape>"
