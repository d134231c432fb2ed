"""JSON between two tags, as Hermes and Qwen write it; and the same with tags of one's own."""

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.frontend.chat.tools.json_calls import Keys, calls
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.parser import CallTag, ParserError, ToolParser, register_tool_parser
from headrace.frontend.chat.tools.source import Delimiters, Source, Step


class TaggedParser(ToolParser):
    """Any number of `start` JSON `end`, among other text; JSON is a call or an array of calls."""

    def __init__(self, start: str, end: str, keys: Keys) -> None:
        super().__init__()
        self._start, self._end, self._keys = start, end, keys
        self._marks = Delimiters(start)

    def read(self, source: Source, output: ParserOutput) -> Step[None]:
        while (yield from source.until(self._marks, output.content)):
            source.start_recording()
            source.take(len(self._start))
            if (yield from self._calls(source, output)):
                source.stop_recording()
            else:
                output.content(source.take_recording())

    def _calls(self, source: Source, output: ParserOutput) -> Step[bool]:
        yield from source.space()
        if not (yield from calls(source, output, self._keys)):
            return False
        yield from source.space()
        # A call whose end is not marked is one nevertheless.
        return bool(self._end) and (yield from source.accept(self._end, or_cut=True))


@register_tool_parser("hermes")
class HermesParser(TaggedParser):
    """<tool_call> {"name": …, "arguments": {…}} </tool_call>"""

    marks = ("<tool_call>", "</tool_call>")
    tag = CallTag(
        "<tool_call>",
        lambda name: f'\n{{"name": {json.dumps(name)}, "arguments": ',
        "}\n</tool_call>",
    )

    def __init__(self, settings: str = "") -> None:
        ToolParser.__init__(self, settings)
        super().__init__(*self.marks, Keys())


Mark = Annotated[str, Field(max_length=100)]


class GenericSettings(BaseModel):
    """start, end: the tags around the JSON; an empty end is none. name, arguments: keys in it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    start: Annotated[Mark, Field(min_length=1)]
    end: Mark = ""
    name: Annotated[Mark, Field(min_length=1)] = "name"
    arguments: Annotated[Mark, Field(min_length=1)] = "arguments"


@register_tool_parser("generic")
class GenericParser(TaggedParser):
    """As its settings say: generic:{"start": "<call>", "end": "</call>", "arguments": "args"}."""

    def __init__(self, settings: str = "") -> None:
        try:
            wanted = GenericSettings.model_validate_json(settings or "{}")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "settings"
            raise ParserError(f"generic: {key}: {first['msg']}") from error
        super().__init__(wanted.start, wanted.end, Keys(wanted.name, (wanted.arguments,)))
        self.marks = (wanted.start, wanted.end)
        keys = json.dumps(wanted.name), json.dumps(wanted.arguments)
        self.tag = CallTag(
            wanted.start,
            lambda name: f"\n{{{keys[0]}: {json.dumps(name)}, {keys[1]}: ",
            f"}}\n{wanted.end}",
        )
