"""Read the messages of a harmony output: reasoning, content and calls in their channels.

An output is a series of messages, the first of which the prompt has begun:
`<|start|>assistant<|channel|>analysis<|message|>…<|end|>`.
"""

import re
from typing import Final

from headrace.frontend.chat.message import NOTHING, MessagePart, MessageReader
from headrace.protocol.common.reasoning_text import held_chars

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
END, RETURN, CALL = "<|end|>", "<|return|>", "<|call|>"
TOKENS: Final = (START, CHANNEL, MESSAGE, END, RETURN, CALL, "<|constrain|>")

_ENDS = re.compile("|".join(map(re.escape, (START, END, RETURN, CALL))))
_TEXTS = (START, END, RETURN, CALL)
_RECIPIENT = re.compile(r"\bto=\S")
_CHANNEL_NAME = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
_MAX_HEADER_CHARS = 1024


class HarmonyReader:
    """Separates the messages of an output.

    Those in the channel "analysis" are reasoning, calls are passed to `content_reader` as they are
    written, and all others are content. Messages of one kind are joined by line breaks.

    include: whether reasoning is returned or dropped.
    in_answer: whether the prompt has begun the final message.
    """

    def __init__(
        self, content_reader: MessageReader, *, include: bool, in_answer: bool = False
    ) -> None:
        self._content_reader = content_reader
        self._include = include
        self._held = ""
        self._stage = self._body if in_answer else self._header
        self._kind = "content"
        self._begun = set[str]()  # kinds of messages that came
        self._is_new = False  # whether the message has no text yet
        self.is_over = in_answer

    def feed(self, text: str) -> MessagePart:
        self._held += text
        part = NOTHING
        while True:
            before = len(self._held), self._stage
            part = part.then(self._stage(is_end=False))
            if (len(self._held), self._stage) == before:
                return part

    def finish(self) -> MessagePart:
        part = self._stage(is_end=True)
        return part.then(self._content_reader.finish())

    def finish_reason(self, reason: str) -> str:
        return self._content_reader.finish_reason(reason)

    def _header(self, *, is_end: bool) -> MessagePart:
        """Read up to the body of a message, or take text without a header as content."""
        held = self._held
        position = held.find(MESSAGE, 0, _MAX_HEADER_CHARS)
        if position < 0 or not _may_be_header(held):
            if not is_end and _may_be_header(held) and len(held) < _MAX_HEADER_CHARS:
                return NOTHING
            if is_end and held.lstrip().startswith((START, CHANNEL)):  # cut within a header
                return NOTHING
            self._begin("content")
            if is_end:
                return self._body(is_end=True)
            # What looked like a header's start is text: left there, it would be read as one again.
            found = held.find(START)
            return self._take(found + len(START)) if found >= 0 and _is_start(held) else NOTHING
        header = held[:position]
        self._held = held[position + len(MESSAGE) :]
        channel = _CHANNEL_NAME.search(header)
        if _RECIPIENT.search(header):
            self.is_over = True
            self._kind, self._stage = "call", self._body
            return self._content_reader.feed(header + MESSAGE)
        is_reasoning = channel is not None and channel[1] == "analysis"
        self.is_over = not is_reasoning and (channel is None or channel[1] == "final")
        self._begin("reasoning" if is_reasoning else "content")
        return NOTHING

    def _begin(self, kind: str) -> None:
        self._kind, self._stage, self._is_new = kind, self._body, True

    def _body(self, *, is_end: bool) -> MessagePart:
        found = _ENDS.search(self._held)
        if found is None:
            kept = 0 if is_end else max(held_chars(self._held, text) for text in _TEXTS)
            return self._take(len(self._held) - kept)
        part = self._take(found.start())
        if found[0] != START:
            if self._kind == "call":
                part = part.then(self._content_reader.feed(found[0]))
            self._held = self._held[len(found[0]) :]
        self._stage = self._header
        return part

    def _take(self, count: int) -> MessagePart:
        """Return the next characters of a message's body."""
        text, self._held = self._held[:count], self._held[count:]
        if not text:
            return NOTHING
        if self._kind == "call":
            return self._content_reader.feed(text)
        separator = "\n" if self._kind in self._begun and self._is_new else ""
        self._begun.add(self._kind)
        self._is_new = False
        if self._kind == "content":
            return self._content_reader.feed(separator + text)
        return MessagePart(reasoning=separator + text) if self._include else NOTHING


def _may_be_header(text: str) -> bool:
    """Return whether a text may begin with a header, as far as it has come."""
    start = text[:_MAX_HEADER_CHARS].lstrip()
    beginnings = (START, CHANNEL, MESSAGE, "to=")
    return any(start.startswith(each) or each.startswith(start) for each in beginnings)


def _is_start(text: str) -> bool:
    """Return whether a text begins with the start of a header, after white space."""
    return text[:_MAX_HEADER_CHARS].lstrip().startswith(START)
