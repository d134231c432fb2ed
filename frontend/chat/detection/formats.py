"""Resolve a group's formats of tool calls and reasoning, once at a frontend's start."""

import ctypes
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from headrace.frontend.chat.detection.reasoning_format import find_reasoning_format
from headrace.frontend.chat.detection.tool_format import FoundParser, find_tool_format
from headrace.frontend.chat.reasoning.delimiters import ReasoningDelimiters
from headrace.frontend.chat.tools.available import ToolParser, find_parser
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.reasoning import AUTO, ReasoningFormat

log = logging.getLogger("headrace.frontend.formats")

_DEADLINE_S = 10.0

T = TypeVar("T")


class _TakesTooLong(BaseException):
    """An examination is to end."""


@dataclass(frozen=True, slots=True)
class ModelFormats:
    """How a model writes reasoning and tool calls.

    reasoning, tool_parser: None if reasoning is not separated, and calls are not parsed.
    found: what was found by itself: what it is, its name, and by what it was found.
    """

    reasoning: ReasoningDelimiters | None = None
    tool_parser: ToolParser | None = None
    found: tuple[tuple[str, str, str], ...] = ()

    @property
    def description(self) -> str:
        """What was found, for the log."""
        named = [f"{what} as {name} ({evidence})" for what, name, evidence in self.found]
        return ", ".join(named) or "neither tool calls nor reasoning"


def resolve_formats(
    config: PoolConfig, tokenizers: Mapping[str, ModelTokenizer]
) -> dict[str, ModelFormats]:
    """Return the formats of all groups by their names. Raises ParserError for an unknown parser."""
    return {group.name: _of_group(group, tokenizers[group.name]) for group in config.groups}


def log_found(config: PoolConfig, formats: Mapping[str, ModelFormats]) -> None:
    """Say what was found in the chat templates of groups that generate and leave it to them."""
    for group in config.groups:
        is_chat = group.name in formats and group.engine.runner != "pooling"
        if is_chat and AUTO in (group.reasoning_parser, group.serving.tool_call_parser):
            found = formats[group.name].description
            log.info("%s: the chat template has %s", group.served_names[0], found)


def _of_group(group: GroupConfig, tokenizer: ModelTokenizer) -> ModelFormats:
    serving, found = group.serving, list[tuple[str, str, str]]()
    tool_parser = None
    if serving.tool_call_parser == AUTO:
        parser = _within_deadline(group, lambda: _find_parser(tokenizer))
        if parser is not None:
            tool_parser = parser.parser
            found.append(("tool calls", parser.name, parser.evidence))
    elif serving.tool_call_parser is not None:
        tool_parser = find_parser(serving.tool_call_parser, serving.tool_parser_plugin)
    format_ = group.reasoning_parser
    if format_ == AUTO:
        template = tokenizer.template
        reasoning = _within_deadline(
            group, lambda: None if template is None else find_reasoning_format(template)
        )
        format_ = None if reasoning is None else reasoning.format
        if reasoning is not None:
            found.append(("reasoning", reasoning.name, reasoning.evidence))
    delimiters = None
    if isinstance(format_, ReasoningFormat):
        delimiters = ReasoningDelimiters.encode(format_, tokenizer)
    return ModelFormats(delimiters, tool_parser, tuple(found))


def _find_parser(tokenizer: ModelTokenizer) -> FoundParser | None:
    template = tokenizer.tool_template
    if template is None:
        return None
    return find_tool_format(
        template, tokenizer.special_texts, tokenizer.end_texts, tokenizer.added_texts
    )


def _within_deadline(group: GroupConfig, find: Callable[[], T | None]) -> T | None:
    """Return what a function finds; None if it fails, or takes too long.

    A template is a program, which may do anything on chats that nobody has foreseen.
    """
    results: list[T | None] = []

    def run() -> None:
        try:
            results.append(find())
        except Exception:
            log.exception("%s: the chat template could not be examined", group.served_names[0])
            results.append(None)
        except _TakesTooLong:
            pass

    thread = threading.Thread(target=run, name="formats", daemon=True)
    thread.start()
    thread.join(_DEADLINE_S)
    if results:
        return results[0]
    log.warning("%s: the chat template takes too long to be examined", group.served_names[0])
    _stop(thread)
    return None


def _stop(thread: threading.Thread) -> None:
    """End a thread at its next step in Python, so that it takes no more time and memory."""
    ident = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(_TakesTooLong))
