"""Find the parser of the calls that a model writes."""

import json
import re
from collections.abc import Iterable
from typing import NamedTuple

from headrace.frontend.chat.detection.probes import ARGUMENTS, NAME, TOOL, prompt, written_calls
from headrace.frontend.chat.message import CollectedMessage
from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.chat.tools.available import ToolParser, available_parsers
from headrace.frontend.chat.tools.reader import ToolCallReader


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
    special, ends = frozenset(special), frozenset(ends)
    parsers = available_parsers()
    for text in written_calls(template):
        answer = _cut(text, ends)
        read = [
            (left, -_count(parser, answer), position)
            for position, (_, parser) in enumerate(parsers)
            if (left := _unread(parser, answer, special)) is not None
        ]
        if read:
            name, parser = parsers[min(read)[2]]
            return FoundParser(name, parser, "the chat template writes them so")
    return _by_instructions(template, parsers, frozenset(added))


def _unread(parser: ToolParser, answer: str, special: frozenset[str]) -> int | None:
    """Return how much of an answer is not the call; None if the call is not read exactly."""
    hidden = special - set(parser.delimiters)
    if hidden:
        answer = re.sub("|".join(map(re.escape, sorted(hidden, key=len, reverse=True))), "", answer)
    reader, message = ToolCallReader(parser), CollectedMessage()
    message.add(reader.feed(answer))
    message.add(reader.finish())
    calls = message.tool_calls
    if len(calls) != 1 or calls[0].name != NAME:
        return None
    try:
        arguments = json.loads(calls[0].arguments)
    except ValueError:
        return None
    if not isinstance(arguments, dict) or arguments.keys() != ARGUMENTS.keys():
        return None
    # Without the function's schema, some formats tell no numbers from texts.
    if any(str(arguments[key]) != str(value) for key, value in ARGUMENTS.items()):
        return None
    return len(message.content.strip())


def _count(parser: ToolParser, text: str) -> int:
    return sum(delimiter in text for delimiter in parser.delimiters)


def _cut(text: str, ends: frozenset[str]) -> str:
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
        (-_count(parser, shown), position)
        for position, (_, parser) in enumerate(parsers)
        if parser.delimiters and parser.delimiters[0] in shown
    ]
    if known:
        name, parser = parsers[min(known)[1]]
        return FoundParser(name, parser, f"the chat template speaks of {parser.delimiters[0]}")
    for name, parser in parsers:
        if parser.delimiters and added.issuperset(parser.delimiters):
            return FoundParser(name, parser, f"the tokenizer has {parser.delimiters[0]}")
    return None
