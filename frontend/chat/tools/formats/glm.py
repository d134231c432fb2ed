"""Calls whose arguments are pairs of elements: a key, and its value as text."""

import re
from typing import ClassVar

from headrace.frontend.chat.tools.json_calls import CallKeys, is_function_name, read_calls
from headrace.frontend.chat.tools.parser import (
    CallSyntax,
    ParameterSyntax,
    ToolParser,
    register_tool_parser,
)
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source, accept_any
from headrace.frontend.chat.tools.tool_schemas import JSON_TYPES
from headrace.frontend.chat.tools.typed_arguments import TypedArguments

_HEAD = re.compile(r"[^<\n{]*")
_KEY = re.compile(r"[^<]*")


class PairsParser(ToolParser):
    """Reads CALL name KEY…/KEY VALUE…/VALUE /CALL, where the capitals are tags.

    prefix: what the names of all tags begin with.
    wrapper: the tags around calls, which are optional.
    separator: a tag that may stand after the function's name.
    """

    prefix: ClassVar[str] = ""
    wrapper: ClassVar[str] = ""
    separator: ClassVar[str] = ""

    def __init__(self, settings: str = "") -> None:
        super().__init__(settings)
        self._call, self._call_end = self._tags("tool_call")
        self._key, self._key_end = self._tags("arg_key")
        self._value, self._value_end = self._tags("arg_value")
        self._type, self._type_end = self._tags("arg_type")
        self._wrapper, self._wrapper_end = self._tags(self.wrapper) if self.wrapper else ("", "")
        pairs = (self._key, self._key_end, self._value, self._value_end, self._type, self._type_end)
        outer = tuple(filter(None, (self._wrapper, self._wrapper_end, self.separator)))
        self.delimiters = (self._call, self._call_end, *pairs, *outer)
        self._starts = Delimiters(*filter(None, (self._wrapper, self._call)))
        self._in_call = Delimiters(self._key, self._call_end, self._call)
        self._ends_of_value = Delimiters(self._value_end, self._key, self._call_end)

        self.call_syntax = CallSyntax(
            self._call,
            lambda name: f"{name}{self.separator}\n",
            self._call_end,
            parameters=ParameterSyntax(
                lambda name, _: f"{self._key}{name}{self._key_end}\n{self._value}",
                self._value_end,
            ),
            marks=outer,
        )

    def _tags(self, name: str) -> tuple[str, str]:
        return f"<{self.prefix}{name}>", f"</{self.prefix}{name}>"

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        while (yield from source.emit_until(self._starts, output.content)):
            source.start_recording()
            if self._wrapper and (yield from source.accept(self._wrapper)):
                yield from source.skip_space()
            yield from self._calls(source, output)
            output.content(source.take_recording())

    def _calls(self, source: Source, output: ParserOutput) -> Incremental[None]:
        """Read calls for as long as there are any; text that is left recorded is content."""
        ends = tuple(filter(None, (self._call_end, self._wrapper_end)))
        while (yield from source.accept(self._call)):
            if not (yield from self._one_call(source, output)):
                return
            yield from source.skip_space()
            while (yield from accept_any(source, ends, or_cut=True)):
                source.start_recording()
                yield from source.skip_space()

    def _one_call(self, source: Source, output: ParserOutput) -> Incremental[bool]:
        """Read a call up to its end tag. Returns False if it is none, or if the text ends in it."""
        yield from source.skip_space()
        if (yield from source.peek()) in ("{", "["):  # Hermes' form, which some models fall into
            ends = (self._call_end, self._call)
            return (yield from read_calls(source, output, CallKeys(), ends))
        name = (yield from source.read_while(_HEAD)).strip()
        yield from source.skip_space()
        if self.separator and (yield from source.accept(self.separator)):
            yield from source.skip_space()
        if not is_name_alone(name, output) or not (yield from self._is_call(source)):
            return False
        source.stop_recording()
        arguments = TypedArguments(output, name)
        while delimiter := (yield from source.emit_until(self._in_call, lambda _: None)):
            if delimiter != self._key:
                arguments.end()
                source.start_recording()
                return True
            yield from self._pair(source, arguments)
        return False

    def _is_call(self, source: Source) -> Incremental[bool]:
        """Return whether a function's name is followed by what follows one in a call."""
        for tag in (self._key, self._call_end):
            if (yield from source.ahead(tag)):
                return True
        return False

    def _pair(self, source: Source, arguments: TypedArguments) -> Incremental[None]:
        source.take(len(self._key))
        key = (yield from source.read_while(_KEY)).strip()
        yield from source.accept(self._key_end)
        yield from source.skip_space()
        types = None
        if (yield from source.accept(self._type)):
            name = (yield from source.read_while(_KEY)).partition("[")[0].strip().lower()
            types = frozenset({name}) if name in JSON_TYPES else None
            yield from source.accept(self._type_end)
            yield from source.skip_space()
        if not key or not (yield from source.accept(self._value)):
            return
        if (yield from arguments.read_text(source, key, self._ends_of_value, types=types)):
            yield from source.accept(self._value_end)


def is_name_alone(name: str, output: ParserOutput) -> bool:
    """Return whether a text without quotes or tags is a function's name, and not a sentence."""
    return is_function_name(name) and (name in output.tools or not re.search(r"\s", name))


@register_tool_parser("glm45", "glm47", "ling3", "poolside_v1")
class GlmParser(PairsParser):
    """Reads <tool_call>NAME<arg_key>…</arg_key><arg_value>…</arg_value></tool_call>."""


@register_tool_parser("hy_v3", "hy_v4")
class HunyuanParser(PairsParser):
    """Reads calls as GlmParser does, within <tool_calls> and with <tool_sep> after the name."""

    wrapper, separator = "tool_calls", "<tool_sep>"


@register_tool_parser("k2_horizon")
class HorizonParser(PairsParser):
    """Reads calls as GlmParser does, with tags of its own; values may say their types."""

    prefix, wrapper = "ifm|", "tool_calls"
