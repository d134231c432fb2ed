"""Calls whose parameters are elements that may hold elements, without JSON."""

import json
import re
from typing import Any

from headrace.frontend.chat.tools.json_calls import is_function_name
from headrace.frontend.chat.tools.parser import ToolParser, register_tool_parser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source
from headrace.frontend.chat.tools.tool_schemas import json_value, schema_parts, schema_types
from headrace.frontend.chat.tools.typed_arguments import TypedArguments

_MARK = "]<]minimax[>["  # stands before each tag
_TAG = f"{_MARK}<"
_SECTION, _SECTION_END = f"{_MARK}<tool_call>", f"{_MARK}</tool_call>"
_CALL, _CALL_END = f"{_MARK}<invoke name=", f"{_MARK}</invoke>"
_STARTS, _TAGS = Delimiters(_SECTION, _CALL), Delimiters(_TAG)
_HEAD = re.compile(r"[^<>\n]*")
_ITEM = "item"
_MAX_DEPTH = 64


class Element:
    """An element that is being read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text: list[str] = []
        self.children: list[Element] = []

    def as_json(self, schema: Any, root: Any) -> str:
        """Return the value, with the types of its schema.

        root: the schema that references are relative to.
        """
        text = "".join(self.text)
        if not self.children:
            return json_value(text, schema_types(schema, root))
        parts = schema_parts(schema, root)
        types = schema_types(schema, root, unknown=frozenset())
        is_list = "array" in types or (
            "object" not in types and all(child.name == _ITEM for child in self.children)
        )
        if is_list:
            return f"[{', '.join(child.as_json(parts.items, root) for child in self.children)}]"
        members = [
            f"{json.dumps(child.name, ensure_ascii=False)}: "
            + child.as_json(parts.properties.get(child.name), root)
            for child in self.children
        ]
        return f"{{{', '.join(members)}}}"


@register_tool_parser("minimax_m3")
class NestedMiniMaxParser(ToolParser):
    """Reads <invoke name="…"><KEY>…</KEY></invoke>, each tag with a mark before it.

    An element that holds elements is an object, or an array where its schema says so or they are
    all called "item".
    """

    delimiters = (_MARK, _SECTION, _SECTION_END)

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        while (yield from source.emit_until(_STARTS, output.content)):
            source.start_recording()
            if (yield from source.accept(_SECTION)):
                yield from source.skip_space()
            yield from self._calls(source, output)
            output.content(source.take_recording())

    def _calls(self, source: Source, output: ParserOutput) -> Incremental[None]:
        """Read calls for as long as there are any; text that is left recorded is content."""
        while (yield from source.accept(_CALL)):
            name = (yield from source.read_while(_HEAD)).strip().strip("\"'")
            if not is_function_name(name) or not (yield from source.accept(">")):
                return
            source.stop_recording()
            if not (yield from self._arguments(source, output, name)):
                return
            source.start_recording()
            yield from source.skip_space()
            if (yield from source.accept(_SECTION_END, or_cut=True)):
                source.start_recording()
                yield from source.skip_space()

    def _arguments(self, source: Source, output: ParserOutput, name: str) -> Incremental[bool]:
        """Read a call up to its end. Returns False if the text ends within it."""
        arguments, root = TypedArguments(output, name), output.tools.parameters(name)
        properties = schema_parts(root, root).properties
        while (yield from source.emit_until(_TAGS, lambda _: None)):
            if (yield from _is_end_of_call(source)):
                yield from source.accept(_CALL_END)
                arguments.end()
                return True
            tag = yield from _read_tag(source)
            if not tag or tag.startswith("/"):
                continue
            element = yield from _read_element(source, tag)
            if element is None:
                return False
            arguments.add(tag, element.as_json(properties.get(tag), root))
        return False


def _is_end_of_call(source: Source) -> Incremental[bool]:
    for tag in (_CALL_END, _SECTION_END, _CALL):
        if (yield from source.ahead(tag)):
            return True
    return False


def _read_tag(source: Source) -> Incremental[str]:
    """Read the tag that comes next, and return what stands in it; "" if it is none."""
    source.take(len(_TAG))
    text = (yield from source.read_while(_HEAD)).strip()
    return text if (yield from source.accept(">")) else ""


def _read_element(source: Source, name: str) -> Incremental[Element | None]:
    """Read an element from its start tag on. Returns None if the text ends within it.

    It ends with its call too. Elements that are nested too deeply are text of those around them.
    """
    open_elements = [Element(name)]
    root = open_elements[0]
    while (yield from source.emit_until(_TAGS, open_elements[-1].text.append)):
        if (yield from _is_end_of_call(source)):
            return root
        tag = yield from _read_tag(source)
        names = [element.name for element in open_elements]
        if tag.startswith("/") and tag[1:] in names:
            while open_elements.pop().name != tag[1:]:
                pass
            if not open_elements:
                return root
        elif tag and not tag.startswith("/") and len(open_elements) < _MAX_DEPTH:
            child = Element(tag)
            open_elements[-1].children.append(child)
            open_elements.append(child)
    return None
