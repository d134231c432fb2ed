"""Calls as elements: one for the function, and in it one for each parameter, its value as text."""

import re
from typing import ClassVar, NamedTuple

from headrace.frontend.chat.tools.json_calls import CallKeys, is_function_name, read_calls
from headrace.frontend.chat.tools.parser import (
    CallSyntax,
    ParameterSyntax,
    ToolParser,
    register_tool_parser,
)
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source, accept_any
from headrace.frontend.chat.tools.tool_schemas import JSON_TYPES, STRING
from headrace.frontend.chat.tools.typed_arguments import TypedArguments

_HEAD = re.compile(r"[^<>\n]*")
_VALUE_OF_HEAD = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^"'\s](?:[^"']*[^"'\s])?))\s*(.*)""")
_NOT_STRING = frozenset({"null", "integer", "number", "boolean", "object", "array"})
_STRING_FLAGS = {'string="true"': STRING, 'string="false"': _NOT_STRING}


_TYPE = re.compile(r'\btype="(\w+)"')


_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_END_OF_CDATA = Delimiters(_CDATA_END)


class Tags(NamedTuple):
    """The tags of an element. start: up to the name. end: the whole end tag."""

    start: str
    end: str


class XmlParser(ToolParser):
    """Reads calls with or without the tags of a section around them.

    A call ends with its section or before the next call too, and a value before the next parameter
    or with its call.

    section: the tags around calls.
    call, parameter: the tags of a call and of a parameter, which name it.
    leads: texts that stand before a call, if the model writes them.
    tails: texts that stand after one.
    tag_end: the end of a start tag.
    dropped: tags around other text, which are no content.
    tokens: special tokens that tags are made of.
    has_cdata: whether a value may stand in a CDATA section, in which nothing ends it.
    trims: whether a newline before a value and one after it belong to the format.
    """

    section: ClassVar[Tags]
    call: ClassVar[Tags]
    parameter: ClassVar[Tags]
    leads: ClassVar[tuple[str, ...]] = ()
    tails: ClassVar[tuple[str, ...]] = ()
    tag_end: ClassVar[str] = ">"
    dropped: ClassVar[tuple[str, ...]] = ()
    tokens: ClassVar[tuple[str, ...]] = ()
    has_cdata = False
    trims = False

    def __init__(self, settings: str = "") -> None:
        super().__init__(settings)
        tags = (*self.section, *self.call, *self.parameter)
        self.delimiters = (*tags, *self.leads, *self.tails, *self.dropped, *self.tokens)
        self._starts = Delimiters(
            self.section.start, self.call.start, *self.leads[:1], *self.dropped
        )
        self._ends_of_call = (self.call.end, self.section.end, self.call.start, self.section.start)
        self._in_call = Delimiters(self.parameter.start, *self._ends_of_call)
        self._ends_of_value = Delimiters(
            self.parameter.end, self.parameter.start, self.call.end, self.section.end
        )

        self.call_syntax = self._syntax()

    def _syntax(self) -> CallSyntax:
        section, call, newline = self.section, self.call, "\n" if self.trims else ""
        lead = f"{section.start}\n{''.join(self.leads)}{call.start}"
        tail = "".join(self.tails[:1])
        return CallSyntax(
            section.start,
            lambda name: (
                f"{lead.removeprefix(section.start)}{self.name_in_tag(name)}{self.tag_end}\n"
            ),
            f"{call.end}{tail}\n{section.end}",
            parameters=ParameterSyntax(
                lambda name, types: (
                    f"{self.parameter.start}{self.name_in_tag(name)}"
                    f"{self.flag(types)}{self.tag_end}{newline}"
                ),
                f"{newline}{self.parameter.end}",
            ),
            marks=self.dropped,
        )

    def name_in_tag(self, name: str) -> str:
        """Return a name as a start tag holds it."""
        return f'"{name}"'

    def flag(self, types: frozenset[str]) -> str:
        """Return what a parameter's tag says of the types of its value."""
        return ""

    def types_of(self, flag: str) -> frozenset[str] | None:
        """Return the types that a parameter's tag says; None if it says none."""
        return None

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        while (yield from source.emit_until(self._starts, output.content)):
            if (yield from accept_any(source, self.dropped)):
                continue
            source.start_recording()
            yield from source.accept(self.section.start)
            yield from source.skip_space()
            while (yield from accept_any(source, self.leads)):
                yield from source.skip_space()
            yield from self._calls(source, output)
            output.content(source.take_recording())

    def _calls(self, source: Source, output: ParserOutput) -> Incremental[None]:
        """Read calls for as long as there are any; text that is left recorded is content."""
        if (yield from source.peek()) in ("{", "["):  # Hermes' form, which some models fall into
            has_calls = yield from read_calls(source, output, CallKeys(), self.section)
        else:
            has_calls = False
        while (yield from source.accept(self.call.start)):
            if not (yield from self._call(source, output)):
                return
            has_calls = True
            yield from source.skip_space()
        while has_calls and (
            yield from accept_any(source, (*self.tails, self.section.end), or_cut=True)
        ):
            source.start_recording()
            yield from source.skip_space()

    def _call(self, source: Source, output: ParserOutput) -> Incremental[bool]:
        """Read a call from its name on. Returns False if it is none, or if the text ends in it."""
        name, _ = yield from _read_head(source, self.tag_end)
        if not is_function_name(name):
            return False
        source.stop_recording()
        arguments = TypedArguments(output, name)
        while delimiter := (yield from source.emit_until(self._in_call, lambda _: None)):
            if delimiter == self.parameter.start:
                yield from self._parameter(source, arguments)
                continue
            if delimiter == self.call.end:
                source.take(len(delimiter))
            arguments.end()
            source.start_recording()
            return True
        return False

    def _parameter(self, source: Source, arguments: TypedArguments) -> Incremental[None]:
        source.take(len(self.parameter.start))
        key, flag = yield from _read_head(source, self.tag_end)
        if not key:
            return
        is_quoted = self.has_cdata and (yield from source.accept(_CDATA))
        is_whole = yield from arguments.read_text(
            source,
            key,
            _END_OF_CDATA if is_quoted else self._ends_of_value,
            trims=self.trims,
            types=self.types_of(flag),
        )
        if is_whole:
            yield from accept_any(source, (_CDATA_END,) if is_quoted else ())
            yield from source.accept(self.parameter.end)


def _read_head(source: Source, tag_end: str) -> Incremental[tuple[str, str]]:
    """Read the rest of a start tag, and return the name in it and what follows the name.

    The name is "" if this is not a start tag.
    """
    head = yield from source.read_while(_HEAD)
    if not (yield from source.accept(tag_end)):
        return "", ""
    match = _VALUE_OF_HEAD.fullmatch(head)
    if match is None:
        return "", ""
    return (match[1] or match[2] or match[3] or "").strip(), match[4].strip()


@register_tool_parser("qwen3_coder", "qwen3_xml", "step3p5", "step5")
class QwenXmlParser(XmlParser):
    """Reads <tool_call><function=NAME><parameter=KEY>…</parameter></function></tool_call>."""

    section = Tags("<tool_call>", "</tool_call>")
    call = Tags("<function=", "</function>")
    parameter = Tags("<parameter=", "</parameter>")
    trims = True

    def name_in_tag(self, name: str) -> str:
        return name


@register_tool_parser("mimo")
class MiMoParser(QwenXmlParser):
    """Reads calls as QwenXmlParser does; newlines belong to the values."""

    trims = False


@register_tool_parser("seed_oss")
class SeedParser(QwenXmlParser):
    """Reads calls as QwenXmlParser does, in a section of its own name."""

    section = Tags("<seed:tool_call>", "</seed:tool_call>")


@register_tool_parser("minimax_m2")
class MiniMaxParser(XmlParser):
    """Reads <minimax:tool_call><invoke name="…"><parameter name="…">…</parameter></invoke>…."""

    section = Tags("<minimax:tool_call>", "</minimax:tool_call>")
    call = Tags("<invoke name=", "</invoke>")
    parameter = Tags("<parameter name=", "</parameter>")


@register_tool_parser("dots")
class DotsParser(MiniMaxParser):
    """Reads calls as MiniMaxParser does, in a section of its own name."""

    section = Tags("<dots_function_call>", "</dots_function_call>")
    trims = True


@register_tool_parser("minicpm5")
class MiniCpmParser(XmlParser):
    """Reads <function name="…"><param name="…">…</param></function>."""

    section = Tags("<tool_call>", "</tool_call>")
    call = Tags("<function name=", "</function>")
    parameter = Tags("<param name=", "</param>")
    has_cdata = True


@register_tool_parser("deepseek_v32")
class DsmlParser(XmlParser):
    """Reads DeepSeek's markup, whose parameters say whether they are strings."""

    section = Tags("<｜DSML｜function_calls>", "</｜DSML｜function_calls>")
    call = Tags("<｜DSML｜invoke name=", "</｜DSML｜invoke>")
    parameter = Tags("<｜DSML｜parameter name=", "</｜DSML｜parameter>")
    tokens = ("｜DSML｜",)

    def flag(self, types: frozenset[str]) -> str:
        return ' string="true"' if "string" in types else ' string="false"'

    def types_of(self, flag: str) -> frozenset[str] | None:
        return _STRING_FLAGS.get(flag)


@register_tool_parser("deepseek_v4")
class DsmlToolCallsParser(DsmlParser):
    """Reads calls as DsmlParser does, in a section of another name."""

    section = Tags("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>")


@register_tool_parser("deepseek_v41")
class SpacedDsmlParser(DsmlParser):
    """Reads calls as DsmlParser does, with spaces in the tags."""

    section = Tags("<｜DSML｜ calls>", "</｜DSML｜ calls>")
    call = Tags("<｜DSML｜ invoke name=", "</｜DSML｜ invoke>")
    parameter = Tags("<｜DSML｜ parameter name=", "</｜DSML｜ parameter>")


@register_tool_parser("kimi_k3")
class KimiMarkupParser(XmlParser):
    """Reads Kimi K3's markup, whose parameters say their types."""

    section = Tags("<|open|>tools<|sep|>", "<|close|>tools<|sep|>")
    call = Tags("<|open|>call tool=", "<|close|>call<|sep|>")
    parameter = Tags("<|open|>argument key=", "<|close|>argument<|sep|>")
    tag_end = "<|sep|>"
    dropped = (
        "<|open|>response<|sep|>",
        "<|close|>response<|sep|>",
        "<|close|>message<|sep|>",
    )
    tokens = ("<|open|>", "<|close|>", "<|sep|>")

    def flag(self, types: frozenset[str]) -> str:
        return f' type="{"string" if "string" in types else min(types)}"'

    def types_of(self, flag: str) -> frozenset[str] | None:
        match = _TYPE.search(flag)
        return frozenset({match[1]}) if match and match[1] in JSON_TYPES else None


@register_tool_parser("step3")
class StepParser(XmlParser):
    """Reads calls between Step's tokens: a type, a separator and the markup of a call."""

    section = Tags("<｜tool_calls_begin｜>", "<｜tool_calls_end｜>")
    call = Tags("<steptml:invoke name=", "</steptml:invoke>")
    parameter = Tags("<steptml:parameter name=", "</steptml:parameter>")
    leads = ("<｜tool_call_begin｜>", "function", "<｜tool_sep｜>")
    tails = ("<｜tool_call_end｜>",)
    trims = True
