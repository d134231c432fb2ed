"""The formats of models' reasoning: an operator's `--reasoning-parser`.

A format is chosen by its name, or described by its delimiters.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from headrace.protocol.common.reasoning_text import CallStart, ReasoningMarks

MAX_DELIMITER_CHARS = 64


def _check_no_outer_space(text: str) -> str:
    if text.strip() != text:
        raise ValueError("must not begin or end with white space")
    return text


Delimiter = Annotated[
    str, Field(min_length=1, max_length=MAX_DELIMITER_CHARS), AfterValidator(_check_no_outer_space)
]
Delimiters = Annotated[tuple[Delimiter, ...], Field(max_length=8)]
Shapes = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=8)
]

# What follows a mark that begins a call, in the formats of tool calls that models think with.
_JSON_CALL = (' { "name" : "%"', ' [ { "name" : "%"', ' { "arguments" : {', ' { "function" : "%"')
_XML_CALL = (" <function=%", ' <invoke name="%"')
ANY_CALL = (*_JSON_CALL, *_XML_CALL)


class ReasoningFormat(BaseModel):
    """The format of a model's reasoning.

    start, end: the delimiters around reasoning, which comes at the beginning of an answer.
    other_starts, other_ends: further spellings of them.
    assumed: whether an answer begins with reasoning even if neither its prompt nor its text has the
        start delimiter.
    switches: variables of the chat template that turn reasoning on or off; where it is off,
        reasoning is not assumed. by_default: whether it is on where none of them is set.
    ends_before: delimiters that also end reasoning, in requests with tools, and belong to what
        follows. call_shapes: which texts must follow one, else it is only mentioned.
    heading: a text at the beginning of reasoning that is dropped.
    trims: whether white space between reasoning and its delimiters is dropped.
    answer_start, answer_end: around the rest of the answer; dropped where they are written.
    layout: tags: as described by the above; harmony: messages in channels; prefixed: nothing is
        separated, but the start, which the prompt has, is shown before the answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: Delimiter
    end: Delimiter
    other_starts: Delimiters = ()
    other_ends: Delimiters = ()
    assumed: bool = False
    switches: tuple[str, ...] = ()
    by_default: bool = True
    ends_before: Delimiters = ()
    call_shapes: Shapes = ANY_CALL
    heading: Annotated[str, Field(max_length=MAX_DELIMITER_CHARS)] = ""
    trims: bool = False
    answer_start: Delimiter | None = None
    answer_end: Delimiter | None = None
    layout: Literal["tags", "harmony", "prefixed"] = "tags"

    @model_validator(mode="before")
    @classmethod
    def _read_switch(cls, values: Any) -> Any:
        """Read `switch`, the only one."""
        if not isinstance(values, dict) or "switch" not in values:
            return values
        rest = {key: value for key, value in values.items() if key != "switch"}
        switch = values["switch"]
        return rest if switch is None else {**rest, "switches": (switch,)}

    @model_validator(mode="after")
    def _check_delimiters(self) -> "ReasoningFormat":
        if set(self.starts) & set(self.ends):
            raise ValueError("start and end must differ")
        ends = (*self.ends, *self.ends_before)
        pairs = [(a, b) for a in ends for b in ends if a is not b]
        if any(-1 < b.find(a) < len(b) - len(a) or a == b for a, b in pairs):
            raise ValueError("no delimiter that ends reasoning may be part of another")
        if any(a.startswith(b) for a in self.starts for b in self.starts if a is not b):
            raise ValueError("no delimiter that begins reasoning may begin with another")
        if (self.answer_start is None) != (self.answer_end is None):
            raise ValueError("answer_start and answer_end need each other")
        return self

    @property
    def starts(self) -> tuple[str, ...]:
        return (self.start, *self.other_starts)

    @property
    def ends(self) -> tuple[str, ...]:
        return (self.end, *self.other_ends)

    def marks(self, *, with_start: bool = True, with_calls: bool = False) -> ReasoningMarks:
        """Return the texts around reasoning.

        with_start: whether the output may begin with a start. with_calls: whether calls may end it.
        """
        calls = [CallStart(mark, self.call_shapes) for mark in self.ends_before]
        return ReasoningMarks(
            self.starts if with_start else (), self.ends, tuple(calls) if with_calls else ()
        )

    def is_on(self, variables: Mapping[str, Any]) -> bool:
        """Return whether a chat template's variables turn reasoning on."""
        given = [variables[name] for name in self.switches if variables.get(name) is not None]
        if not given:
            return self.by_default
        return any(bool(value) and value not in ("none", "no_think") for value in given)


def _think(**options: Any) -> ReasoningFormat:
    return ReasoningFormat(start="<think>", end="</think>", **options)


def _qwen3(**options: Any) -> ReasoningFormat:
    defaults = {"assumed": True, "switches": ("enable_thinking",), "ends_before": ("<tool_call>",)}
    return _think(**{**defaults, **options})


_BOTH_SWITCHES = ("thinking", "enable_thinking")
_GLM_CALL = (" % <arg_key>", " % </tool_call>")

FORMATS: dict[str, ReasoningFormat] = {
    "deepseek_r1": _think(assumed=True),
    "deepseek_v3": _think(assumed=True, switches=_BOTH_SWITCHES, by_default=False),
    "deepseek_v4": _think(
        assumed=True,
        switches=_BOTH_SWITCHES,
        by_default=False,
        ends_before=("<｜DSML｜tool_calls>",),
        call_shapes=(' <｜DSML｜invoke name="%"',),
        trims=True,
    ),
    "qwen3": _qwen3(),
    "nemotron_v3": _qwen3(trims=True),
    "step3": _think(assumed=True),
    "holo2": _think(assumed=True, switches=_BOTH_SWITCHES),
    "step3p5": _qwen3(switches=(), trims=True),
    "glm45": _think(
        assumed=True,
        switches=_BOTH_SWITCHES,
        ends_before=("<tool_call>",),
        call_shapes=(*_GLM_CALL, *_JSON_CALL),
        trims=True,
    ),
    "kimi_k2": _think(
        assumed=True,
        switches=_BOTH_SWITCHES,
        ends_before=("<|tool_calls_section_begin|>",),
        call_shapes=(" <|tool_call_begin|>",),
        trims=True,
    ),
    "kimi_k3": ReasoningFormat(
        start="<|open|>think<|sep|>",
        end="<|close|>think<|sep|>",
        assumed=True,
        switches=_BOTH_SWITCHES,
        answer_start="<|open|>response<|sep|>",
        answer_end="<|close|>response<|sep|>",
    ),
    "k2_horizon": ReasoningFormat(
        start="<ifm|think>",
        end="</ifm|think>",
        other_starts=("<ifm|think_fast>", "<ifm|think_faster>"),
        other_ends=("</ifm|think_fast>", "</ifm|think_faster>"),
        ends_before=("<ifm|tool_calls>",),
        call_shapes=(" <", " {", " ["),
    ),
    "minimax_m2": _think(
        assumed=True,
        ends_before=("<minimax:tool_call>",),
        call_shapes=(' <invoke name="%"', " <invoke name='%'", " <invoke name=%"),
        trims=True,
    ),
    "minimax_m2_append_think": _think(layout="prefixed"),
    "minimax_m3": ReasoningFormat(start="<mm:think>", end="</mm:think>"),
    "olmo3": _think(assumed=True),
    "hy_v3": _think(assumed=True, switches=("reasoning_effort",), by_default=False),
    "hunyuan_a13b": _think(trims=True, answer_start="<answer>", answer_end="</answer>"),
    "ernie45": _think(assumed=True, answer_start="<response>", answer_end="</response>"),
    "seed_oss": ReasoningFormat(
        start="<seed:think>",
        end="</seed:think>",
        assumed=True,
        ends_before=("<seed:tool_call>",),
        call_shapes=(" <function=%",),
    ),
    "gemma4": ReasoningFormat(
        start="<|channel>",
        end="<channel|>",
        heading="thought\n",
        trims=True,
        ends_before=("<|tool_call>",),
        call_shapes=("call:%{",),
    ),
    "mistral": ReasoningFormat(
        start="[THINK]",
        end="[/THINK]",
        ends_before=("[TOOL_CALLS]",),
        call_shapes=(" %{", " %[ARGS]", " %[CALL_ID]", ' [ { "name" : "%"', ' [ { "arguments" : {'),
        trims=True,
    ),
    "granite": ReasoningFormat(
        start="Here is my thought process:",
        end="Here is my response:",
        other_starts=("Here's my thought process:",),
        other_ends=("Here's my response:",),
    ),
    "cohere_command3": ReasoningFormat(
        start="<|START_THINKING|>",
        end="<|END_THINKING|>",
        answer_start="<|START_RESPONSE|>",
        answer_end="<|END_RESPONSE|>",
        ends_before=("<|START_ACTION|>",),
        call_shapes=(" [ {",),
    ),
    "cohere_command4": ReasoningFormat(
        start="<|START_THINKING|>",
        end="<|END_THINKING|>",
        answer_start="<|START_TEXT|>",
        answer_end="<|END_TEXT|>",
        ends_before=("<|START_ACTION|>",),
        call_shapes=(" [ {",),
    ),
    "plamo3": ReasoningFormat(
        start="<|plamo:begin_think:plamo|>",
        end="<|plamo:end_think:plamo|>",
        switches=("enable_thinking",),
    ),
    "openai_gptoss": ReasoningFormat(
        start="<|channel|>analysis<|message|>",
        end="<|end|><|start|>assistant<|channel|>final<|message|>",
        other_ends=("<|channel|>final<|message|>",),
        assumed=True,
        ends_before=("<|channel|>commentary",),
        call_shapes=(" to=",),
        layout="harmony",
    ),
    "think": _think(),
}
# Names of the same formats.
ALIASES = {
    "gpt_oss": "openai_gptoss",
    "gptoss": "openai_gptoss",
    "harmony": "openai_gptoss",
    "deepseek_v41": "deepseek_v4",
    "glm47": "glm45",
    "ling3": "glm45",
    "hy_v4": "hy_v3",
    "mimo": "qwen3",
    "minicpmv": "qwen3",
    "granite_thinking_parser": "nemotron_v3",
    "poolside_v1": "deepseek_v3",
    "step5": "deepseek_r1",
}
# Names that turn the separation off.
OFF = ("none", "identity")
AUTO = "auto"

_EXAMPLE = '{"start": "<think>", "end": "</think>"}'


def with_suffix(format_: ReasoningFormat, suffix: str) -> ReasoningFormat:
    """Return a format whose delimiters have a suffix in their tags, as some checkpoints have."""
    tags = {name: f"{getattr(format_, name)[:-1]}{suffix}>" for name in ("start", "end")}
    return format_.model_copy(update=tags)


def format_names() -> list[str]:
    """Return all names of formats."""
    return sorted((*FORMATS, *ALIASES))


def parse_format(value: Any) -> Any:
    """Return the format of this name, or the object that a JSON text describes.

    Returns None for names that turn it off, and "auto" and values that are not strings unchanged.
    Raises ValueError for a string that is neither a name nor a JSON object.
    """
    if not isinstance(value, str) or value == AUTO:
        return value
    if value in OFF:
        return None
    known = FORMATS.get(ALIASES.get(value, value))
    if known is not None:
        return known
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        names = ", ".join((AUTO, *OFF, *format_names()))
        raise ValueError(f"must be {names} or a JSON object such as {_EXAMPLE}")
    return parsed
