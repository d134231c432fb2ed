"""JSON between two tags, as Hermes and Qwen write it, or between tags of your own."""

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.frontend.chat.tools.json_calls import CallKeys, read_calls
from headrace.frontend.chat.tools.parser import (
    CallSyntax,
    ParserError,
    ToolParser,
    register_tool_parser,
)
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source


class TaggedParser(ToolParser):
    """Reads any number of `start` JSON `end`, among other text.

    The JSON is a call or an array of calls.
    """

    def __init__(self, start: str, end: str, keys: CallKeys) -> None:
        super().__init__()
        self._start, self._end, self._keys = start, end, keys
        self._delimiters = Delimiters(start)

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        while (yield from source.emit_until(self._delimiters, output.content)):
            source.start_recording()
            source.take(len(self._start))
            if (yield from self._calls(source, output)):
                source.stop_recording()
            else:
                output.content(source.take_recording())

    def _calls(self, source: Source, output: ParserOutput) -> Incremental[bool]:
        yield from source.skip_space()
        if not (yield from read_calls(source, output, self._keys)):
            return False
        yield from source.skip_space()
        # A call without an end tag is still a call.
        return bool(self._end) and (yield from source.accept(self._end, or_cut=True))


@register_tool_parser("hermes")
class HermesParser(TaggedParser):
    """Reads <tool_call> {"name": …, "arguments": {…}} </tool_call>."""

    delimiters = ("<tool_call>", "</tool_call>")
    call_syntax = CallSyntax(
        "<tool_call>",
        lambda name: f'\n{{"name": {json.dumps(name)}, "arguments": ',
        "}\n</tool_call>",
    )

    def __init__(self, settings: str = "") -> None:
        ToolParser.__init__(self, settings)
        super().__init__(*self.delimiters, CallKeys())


Tag = Annotated[str, Field(max_length=100)]


class GenericSettings(BaseModel):
    """The settings of the generic parser.

    start, end: the tags around the JSON; an empty end means that there is none.
    name, arguments: the keys of the function's name and arguments.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    start: Annotated[Tag, Field(min_length=1)]
    end: Tag = ""
    name: Annotated[Tag, Field(min_length=1)] = "name"
    arguments: Annotated[Tag, Field(min_length=1)] = "arguments"


@register_tool_parser("generic")
class GenericParser(TaggedParser):
    """Reads calls as its settings describe them.

    Settings are JSON: generic:{"start": "<call>", "end": "</call>", "arguments": "args"}.
    """

    def __init__(self, settings: str = "") -> None:
        try:
            parsed = GenericSettings.model_validate_json(settings or "{}")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "settings"
            raise ParserError(f"generic: {key}: {first['msg']}") from error
        super().__init__(parsed.start, parsed.end, CallKeys(parsed.name, (parsed.arguments,)))
        self.delimiters = (parsed.start, parsed.end)
        keys = json.dumps(parsed.name), json.dumps(parsed.arguments)
        self.call_syntax = CallSyntax(
            parsed.start,
            lambda name: f"\n{{{keys[0]}: {json.dumps(name)}, {keys[1]}: ",
            f"}}\n{parsed.end}",
        )
