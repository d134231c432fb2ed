"""Find the parser of the calls that a model writes."""

import json
import re
from collections.abc import Iterable, Mapping, Set
from typing import Any, NamedTuple

from headrace.frontend.chat.detection.probes import (
    NAME,
    TOOL,
    WrittenCall,
    end_of_answer,
    prompt,
    written_calls,
)
from headrace.frontend.chat.message import CollectedMessage
from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.chat.tools.available import ToolParser, available_parsers
from headrace.frontend.chat.tools.reader import ToolCallReader
from headrace.frontend.chat.tools.tool_schemas import ToolSchemas
from headrace.protocol.reasoning import FORMATS

_TAG = re.compile(r"<[^\s<>]+>|\[/?[A-Z_]+\]")
# Templates may write reasoning before a call; it is read by others.
_REASONING = re.compile(
    "|".join(re.escape(text) for each in FORMATS.values() for text in (*each.starts, *each.ends))
)
_TOOLS = ToolSchemas({NAME: TOOL["function"]["parameters"]})


class FoundParser(NamedTuple):
    """A parser, and by what it was found."""

    name: str
    parser: ToolParser
    evidence: str


def find_tool_format(
    template: ChatTemplate, special: Iterable[str], ends: Iterable[str], added: Iterable[str] = ()
) -> FoundParser | None:
    """Return the parser that reads calls as the template writes them; None if there is none.

    special: the tokenizer's special tokens, which parsers see only if they ask for them.
    ends: those that end an answer. added: all tokens with a text of their own.
    """
    special, ends = frozenset(special), {*ends, end_of_answer(template)} - {""}
    parsers = available_parsers()
    has_written = False  # then instructions tell no more
    for written in written_calls(template):
        has_written = True
        call = written._replace(text=_cut(written.text, ends))
        read = [
            (*errors, -_count(parser, call.text), len(parser.delimiters), position)
            for position, (_, parser) in enumerate(parsers)
            if (errors := _errors(parser, call, special)) is not None
        ]
        if read:
            name, parser = parsers[min(read)[-1]]
            return FoundParser(name, parser, "the chat template writes them so")
    return None if has_written else _by_instructions(template, parsers, frozenset(added))


def _errors(
    parser: ToolParser, call: WrittenCall, special: frozenset[str]
) -> tuple[int, bool] | None:
    """Return how much text a parser leaves, and whether it takes values for texts.

    Returns None if it does not read the call, or leaves tags.
    """
    answer = call.text
    hidden = special - set(parser.delimiters)
    if hidden:
        answer = re.sub("|".join(map(re.escape, sorted(hidden, key=len, reverse=True))), "", answer)
    reader, message = ToolCallReader(parser, tools=_TOOLS), CollectedMessage()
    message.add(reader.feed(answer))
    message.add(reader.finish())
    calls = message.tool_calls
    left = _REASONING.sub("", message.content).strip()
    if len(calls) != 1 or calls[0].name != NAME or _TAG.search(left):
        return None
    try:
        arguments = json.loads(calls[0].arguments)
    except ValueError:
        return None
    if not isinstance(arguments, dict):
        return None
    if _as_texts(arguments) != _as_texts(call.arguments):
        return None
    return len(left), arguments != call.arguments


def _as_texts(arguments: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in arguments.items()}


def _cut(text: str, ends: Set[str]) -> str:
    """Return an answer up to the token that ends it, after the call."""
    call = text.find(NAME)
    positions = [position for end in ends if (position := text.find(end, call)) >= 0]
    return text[: min(positions)] if positions else text


def _by_instructions(
    template: ChatTemplate, parsers: list[tuple[str, ToolParser]], added: frozenset[str]
) -> FoundParser | None:
    """Return the parser whose delimiters the instructions or the vocabulary have.

    Only for templates that show tools to the model.
    """
    shown = prompt(template, tools=[TOOL])
    if NAME not in shown:
        return None
    known = [
        (-_count(parser, shown), len(parser.delimiters), position)
        for position, (_, parser) in enumerate(parsers)
        if parser.delimiters and parser.delimiters[0] in shown
    ]
    if known:
        name, parser = parsers[min(known)[-1]]
        return FoundParser(name, parser, f"the chat template speaks of {parser.delimiters[0]}")
    known = [
        (-count, len(parser.delimiters), position)
        for position, (_, parser) in enumerate(parsers)
        if (count := len(added.intersection(parser.delimiters))) > 1
    ]
    if not known:
        return None
    name, parser = parsers[min(known)[-1]]
    token = next(delimiter for delimiter in parser.delimiters if delimiter in added)
    return FoundParser(name, parser, f"the tokenizer has {token}")


def _count(parser: ToolParser, text: str) -> int:
    return sum(delimiter in text for delimiter in parser.delimiters)
