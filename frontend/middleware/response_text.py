"""The text of an answer, for the log: streams are joined to what their client makes of them."""

import json
from collections.abc import Iterator
from typing import Any

MAX_CHARS = 16_384  # of an answer's text in the log
MAX_EVENT_BYTES = 1024 * 1024
_PARTS = ("content", "text", "reasoning", "reasoning_content", "refusal", "thinking")


class WholeText:
    """The beginning of a body that is no stream of events."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._bytes = 0

    def add(self, data: bytes) -> None:
        self._bytes += len(data)
        if len(self._data) < MAX_CHARS:
            self._data += data[: MAX_CHARS - len(self._data)]

    def describe(self) -> str:
        """Return the text as a literal, cut."""
        try:
            text = self._data.decode()
        except UnicodeDecodeError as error:
            if self._bytes == len(self._data) or error.start < len(self._data) - 4:
                return f"{self._bytes} bytes that are no text"
            text = self._data[: error.start].decode()
        return _literal(text, self._bytes - len(self._data))


class StreamText:
    """The texts that a stream of server-sent events brings, joined: those of each choice and each
    kind by themselves."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._events = 0
        self._chars = self._left_out = 0
        self._texts: dict[str, list[str]] = {}

    def add(self, data: bytes) -> None:
        self._rest += data
        *events, rest = self._rest.split(b"\n\n")
        self._rest = rest if len(rest) <= MAX_EVENT_BYTES else bytearray()
        for event in events:
            self._add_event(bytes(event))

    def describe(self) -> str:
        """Return the number of events, and the texts as literals, cut."""
        texts = [f"{name}: {_literal(''.join(parts))}" for name, parts in self._texts.items()]
        more = f", {self._left_out} more characters" if self._left_out else ""
        return f"{self._events} events, {', '.join(texts) or 'no text'}{more}"

    def _add_event(self, event: bytes) -> None:
        for line in event.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            self._events += 1
            try:
                found = json.loads(line[5:])
            except (ValueError, RecursionError):  # [DONE], too
                continue
            if isinstance(found, dict):
                for name, text in _texts(found):
                    self._join(name, text)

    def _join(self, name: str, text: str) -> None:
        room = MAX_CHARS - self._chars
        self._left_out += max(0, len(text) - room)
        if text and room > 0:
            self._texts.setdefault(name, []).append(text[:room])
            self._chars += min(len(text), room)


def _texts(event: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the texts that an event adds, with their names, in any of the APIs."""
    choices = event.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict):
                yield from _of_choice(choice)
        return
    delta, kind = event.get("delta"), event.get("type")
    if isinstance(delta, str) and isinstance(kind, str):  # responses
        yield kind.removeprefix("response.").removesuffix(".delta"), delta
    elif isinstance(delta, dict):  # messages
        yield from _named(delta, (*_PARTS, "partial_json"), event.get("index"))
    elif "error" in event:
        yield "error", json.dumps(event["error"])


def _of_choice(choice: dict[str, Any]) -> Iterator[tuple[str, str]]:
    index, delta = choice.get("index"), choice.get("delta")
    if not isinstance(delta, dict):
        yield from _named(choice, ("text",), index)
        return
    yield from _named(delta, _PARTS, index)
    for call in delta.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield from _named(function, ("name", "arguments"), call.get("index"), "call ")


def _named(
    part: dict[str, Any], keys: tuple[str, ...], index: object, prefix: str = ""
) -> Iterator[tuple[str, str]]:
    for key in keys:
        if isinstance(text := part.get(key), str):
            yield f"{prefix}{key}{f'[{index}]' if index else ''}", text


def _literal(text: str, left_out: int = 0) -> str:
    return f"{text!r}... ({left_out} more bytes)" if left_out else repr(text)
