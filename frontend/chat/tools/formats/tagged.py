"""JSON between tags, as Hermes and many others write it, or between tags of your own."""

import json
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.frontend.chat.tools.json_calls import CallKeys, read_calls
from headrace.frontend.chat.tools.parser import (
    CallSyntax,
    ParserError,
    ToolParser,
    register_tool_parser,
)
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source, accept_any


class TaggedParser(ToolParser):
    """Reads any number of start tag, JSON and end tag, among other text.

    The JSON is a call or several.

    starts: the tags that calls may begin with.
    ends: the tags that may end them; none if nothing does.
    dropped: tags around other text, which are no content.
    """

    starts: tuple[str, ...]
    ends: tuple[str, ...] = ()
    dropped: ClassVar[tuple[str, ...]] = ()
    keys = CallKeys()

    def __init__(self, settings: str = "") -> None:
        super().__init__(settings)
        self._watch_tags()

    def _watch_tags(self) -> None:
        self.delimiters = tuple(dict.fromkeys((*self.starts, *self.ends, *self.dropped)))
        begins = (*self.starts, *self.dropped)
        self._watched = self._watched_within = Delimiters(*begins)
        ends = [end for end in self.ends if end not in begins]
        if not any(tag.startswith(end) or end.startswith(tag) for tag in begins for end in ends):
            self._watched_within = Delimiters(*begins, *ends)

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        watched = self._watched
        while tag := (yield from source.emit_until(watched, output.content)):
            source.start_recording()
            source.take(len(tag))
            watched = self._watched
            if tag not in self.starts:
                source.stop_recording()
                continue
            if (yield from self._calls(source, output)):
                watched = self._watched_within  # text before an end tag does not make it content
            output.content(source.take_recording())

    def _calls(self, source: Source, output: ParserOutput) -> Incremental[bool]:
        """Read calls up to their end tag; text that is left recorded is content.

        Returns whether there were calls, and other text before their end tag.
        """
        tags = (*self.ends, *self.starts)
        has_calls = False
        yield from source.skip_space()
        while self.ends and (yield from accept_any(source, self.starts)):
            yield from source.skip_space()  # a start tag that is written twice
        while (yield from read_calls(source, output, self.keys, tags)):
            has_calls = True
            yield from source.skip_space()
            if (yield from accept_any(source, self.ends, or_cut=True)):
                yield from self._further_ends(source)
                return False
            # A start tag in place of an end tag: another call may follow.
            if not self.ends or not (yield from accept_any(source, self.starts)):
                return True
            yield from source.skip_space()
            if (yield from source.peek()) == "":
                source.stop_recording()
        return has_calls

    def _further_ends(self, source: Source) -> Incremental[None]:
        """Drop end tags that are written twice."""
        source.start_recording()
        yield from source.skip_space()
        while (yield from accept_any(source, self.ends)):
            source.start_recording()
            yield from source.skip_space()


def tagged_syntax(start: str, begin: str, end: str, arguments: str = "arguments") -> CallSyntax:
    """Return the syntax of one call between tags.

    begin: the text between the start tag and the call's bracket. end: the text after it.
    """
    return CallSyntax(
        start, lambda name: f'{begin}{{"name": {json.dumps(name)}, "{arguments}": ', "}" + end
    )


@register_tool_parser("hermes", "qwen3_json", "granite4")
class HermesParser(TaggedParser):
    """Reads <tool_call> {"name": …, "arguments": {…}} </tool_call>."""

    starts, ends = ("<tool_call>",), ("</tool_call>",)
    call_syntax = tagged_syntax("<tool_call>", "\n", "\n</tool_call>")


@register_tool_parser("ernie45")
class ErnieParser(HermesParser):
    """Reads calls as HermesParser does; answers stand between tags of their own."""

    dropped = ("<response>", "</response>")
    call_syntax = HermesParser.call_syntax._replace(marks=dropped)


@register_tool_parser("longcat")
class LongcatParser(TaggedParser):
    """Reads <longcat_tool_call> {"name": …, "arguments": {…}} </longcat_tool_call>."""

    starts, ends = ("<longcat_tool_call>",), ("</longcat_tool_call>",)
    call_syntax = tagged_syntax("<longcat_tool_call>", "\n", "\n</longcat_tool_call>")


@register_tool_parser("jamba", "hunyuan_a13b")
class ToolCallsParser(TaggedParser):
    """Reads <tool_calls> [{"name": …, "arguments": {…}}, …] </tool_calls>."""

    starts, ends = ("<tool_calls>",), ("</tool_calls>",)
    call_syntax = tagged_syntax("<tool_calls>", "[\n", "\n]</tool_calls>")


@register_tool_parser("granite")
class GraniteParser(TaggedParser):
    """Reads [{"name": …, "arguments": {…}}, …] after the tag of Granite 3.0 or that of 3.1."""

    starts, ends = ("<|tool_call|>", "<tool_call>"), ("</tool_call>",)
    call_syntax = tagged_syntax("<|tool_call|>", "[", "]")


@register_tool_parser("granite-20b-fc")
class GraniteCodeParser(TaggedParser):
    """Reads <function_call> {"name": …, "arguments": {…}}, any number of times."""

    starts = ("<function_call>",)
    call_syntax = tagged_syntax("<function_call>", " ", "")


@register_tool_parser("phi4_mini_json")
class PhiParser(TaggedParser):
    """Reads functools[{"name": …, "arguments": {…}}, …], or an array between Phi's tags."""

    starts, ends = ("functools", "<|tool_call|>"), ("<|/tool_call|>",)
    call_syntax = tagged_syntax("functools[", "", "]")


@register_tool_parser("internlm")
class InternLMParser(TaggedParser):
    """Reads <|action_start|><|plugin|> {"name": …, "parameters": {…}} <|action_end|>."""

    starts, ends = ("<|action_start|><|plugin|>",), ("<|action_end|>",)
    call_syntax = tagged_syntax(
        "<|action_start|>", "<|plugin|>\n", "\n<|action_end|>", "parameters"
    )

    def __init__(self, settings: str = "") -> None:
        super().__init__(settings)
        self.delimiters = ("<|action_start|>", "<|plugin|>", "<|action_end|>")


@register_tool_parser("gigachat3")
class GigaChatParser(TaggedParser):
    """Reads <|function_call|> {"name": …, "arguments": {…}}."""

    starts = ("<|function_call|>", "function call<|role_sep|>")
    ends = ("<|message_sep|>",)
    dropped = ("<|message_sep|>", "</s>")
    call_syntax = tagged_syntax("<|function_call|>", "", "")

    def __init__(self, settings: str = "") -> None:
        super().__init__(settings)
        self.delimiters = ("<|function_call|>", "<|role_sep|>", *self.dropped)


@register_tool_parser("apertus")
class ApertusParser(TaggedParser):
    """Reads <|tools_prefix|> [{"name": {…}}, …] <|tools_suffix|>: names are keys of arguments."""

    starts, ends = ("<|tools_prefix|>",), ("<|tools_suffix|>",)
    keys = CallKeys(name="")
    call_syntax = CallSyntax(
        starts[0], lambda name: f"[{{{json.dumps(name)}: ", "}]<|tools_suffix|>"
    )


@register_tool_parser("cohere_command3", "cohere_command4")
class CohereParser(TaggedParser):
    """Reads <|START_ACTION|> [{"tool_name": …, "parameters": {…}}, …] <|END_ACTION|>."""

    starts, ends = ("<|START_ACTION|>",), ("<|END_ACTION|>",)
    dropped = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")
    keys = CallKeys("tool_name", ("parameters",))
    call_syntax = CallSyntax(
        starts[0],
        lambda name: f'[\n    {{"tool_name": {json.dumps(name)}, "parameters": ',
        "}\n]<|END_ACTION|>",
        marks=dropped,
    )


@register_tool_parser("inkling")
class InklingParser(TaggedParser):
    """Reads <|content_invoke_tool_json|> {"name": …, "args": {…}} <|end_message|>."""

    starts, ends = ("<|content_invoke_tool_json|>",), ("<|end_message|>",)
    dropped = (
        "<|message_model|>",
        "<|content_text|>",
        "<|end_message|>",
        "<|content_model_end_sampling|>",
    )
    keys = CallKeys("name", ("args", "arguments"))
    call_syntax = CallSyntax(
        starts[0],
        lambda name: f'{{"name": {json.dumps(name)}, "args": ',
        "}<|end_message|>",
        marks=dropped,
    )


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
        self.starts = (parsed.start,)
        self.ends = (parsed.end,) if parsed.end else ()
        self.keys = CallKeys(parsed.name, (parsed.arguments,))
        self._watch_tags()
        keys = json.dumps(parsed.name), json.dumps(parsed.arguments)
        self.call_syntax = CallSyntax(
            parsed.start,
            lambda name: f"\n{{{keys[0]}: {json.dumps(name)}, {keys[1]}: ",
            f"}}\n{parsed.end}",
        )
