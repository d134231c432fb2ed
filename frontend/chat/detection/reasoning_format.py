"""Find the format of the reasoning that a model writes."""

import re
from typing import NamedTuple

from headrace.frontend.chat.detection.probes import prompt, written_reasoning
from headrace.frontend.chat.templates import ChatTemplate
from headrace.protocol.reasoning import FORMATS, ReasoningFormat, with_suffix

_THOUGHT = "zq thought"
_SWITCHES = ("enable_thinking", "thinking")
_CALL = "<tool_call>"
_SUFFIX = re.compile(r"<think(:[^\s<>]{1,40})>")

# Formats between <think> and </think> are told apart by further texts of their templates.
_BY_TEXT = {
    "minimax_m2": ("<minimax:tool_call>",),
    "kimi_k2": ("<|tool_calls_section_begin|>",),
    "glm45": ("<arg_key>",),
    "deepseek_v4": ("｜DSML｜",),
    "hunyuan_a13b": ("<answer>", "<|extra_0|>"),
    "ernie45": ("</response>",),
}


class FoundFormat(NamedTuple):
    """A format, and by what it was found."""

    name: str
    format: ReasoningFormat
    evidence: str


def find_reasoning_format(template: ChatTemplate) -> FoundFormat | None:
    """Return the format of reasoning that a template knows; None if it knows none.

    Reasoning is assumed only where the template itself begins it, or can end it before the answer:
    the answers of a model that does not reason are never taken for reasoning.
    """
    texts = template.source + prompt(template) + written_reasoning(template, _THOUGHT)
    name = _distinct(texts)
    if name is None and "</think>" in texts:  # some only cut it out of earlier answers
        marked = (each for each, marks in _BY_TEXT.items() if any(mark in texts for mark in marks))
        name = next(marked, "think")
    suffix = _SUFFIX.search(texts)
    if name is None and suffix is not None and f"</think{suffix[1]}>" in texts:
        return _fitted(template, "hy_v3", with_suffix(FORMATS["hy_v3"], suffix[1]), texts)
    return None if name is None else _fitted(template, name, FORMATS[name], texts)


def _distinct(texts: str) -> str | None:
    """Return the format whose delimiters no other format has."""
    if "<|channel|>" in texts and "analysis" in texts and "<|message|>" in texts:
        return "openai_gptoss"
    for name, format_ in FORMATS.items():
        is_own = format_.start != "<think>" and format_.layout == "tags"
        if is_own and format_.start in texts and any(end in texts for end in format_.ends):
            return name
    return None


def _fitted(template: ChatTemplate, name: str, format_: ReasoningFormat, texts: str) -> FoundFormat:
    """Return a format as a template uses it."""
    if format_.layout == "harmony":
        return FoundFormat(name, format_, f"the chat template has {format_.start}")
    mark = format_.start if format_.start in texts else format_.end
    default = _beginning(format_, prompt(template))
    off = {switch: _beginning(format_, prompt(template, {switch: False})) for switch in _SWITCHES}
    on = {switch: _beginning(format_, prompt(template, {switch: True})) for switch in _SWITCHES}
    switches = tuple(switch for switch in _SWITCHES if on[switch] != off[switch])
    is_assumed = default == "open" or (default == "" and "closed" in off.values())
    evidence = f"the chat template has {mark}"
    if default == "open":
        evidence = f"prompts end with {format_.start}"
    elif switches:
        evidence = f"{switches[0]} turns it on and off"
    if name == "think":
        name = _of_think(default, switches)
        format_ = FORMATS[name]
    changes: dict[str, object] = {"assumed": format_.assumed and is_assumed}
    if not format_.ends_before and _CALL in texts:
        changes["ends_before"] = (_CALL,)
    return FoundFormat(name, format_.model_copy(update=changes), evidence)


def _of_think(default: str, switches: tuple[str, ...]) -> str:
    """Return the format between <think> and </think> that behaves like a template's prompts."""
    if not switches:
        return "deepseek_r1" if default == "open" else "think"
    if default == "closed":
        return "deepseek_v3"
    return "qwen3" if switches == ("enable_thinking",) else "holo2"


def _beginning(format_: ReasoningFormat, text: str) -> str:
    """Return how a prompt leaves reasoning: "open", "closed" or ""."""
    end = text.rstrip()
    if end.endswith(format_.ends):
        return "closed"
    return "open" if end.endswith(format_.starts) else ""
