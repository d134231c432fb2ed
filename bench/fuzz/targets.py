"""Functions that read bytes of strangers, each with the rules that hold for any bytes.

A target takes bytes, and raises TargetError, or the reader's own unexpected error, if a rule is
broken. `bench.fuzz.coverage` looks for such bytes; the tests run what it has found before.
"""

import contextlib
import functools
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from headrace.frontend.chat.message import CollectedMessage, MessageReader, PlainReader
from headrace.frontend.chat.reasoning.reader import ReasoningReader
from headrace.frontend.chat.tolerant_json import read_object
from headrace.frontend.chat.tools.available import find_parser
from headrace.frontend.chat.tools.json_repair import repaired_json
from headrace.frontend.chat.tools.parser import parser_names
from headrace.frontend.chat.tools.reader import ToolCallReader
from headrace.frontend.chat.tools.tool_schemas import ToolSchemas
from headrace.frontend.text.detokenizer import (
    ByteDetokenizer,
    Detokenizer,
    WindowDetokenizer,
    join,
)
from headrace.frontend.text.stop_strings import StopMatcher
from headrace.frontend.text.token_bytes import token_bytes_of
from headrace.protocol import to_coordinator, to_frontend, to_launcher, to_worker
from headrace.protocol.codec import Codec, DecodeError
from headrace.protocol.reasoning import format_names, parse_format
from headrace.protocol.state import STATE
from headrace.workers.prepare.gguf_header import GGUFError, read_gguf_header

CODECS: tuple[Codec[Any], ...] = (
    STATE,
    to_coordinator.CONTROL,
    to_frontend.CONTROL,
    to_frontend.OUTPUTS,
    to_launcher.CONTROL,
    to_worker.CONTROL,
    to_worker.REQUESTS,
)
MAX_PIECE = 16
TOOLS = ToolSchemas(
    {
        "f": {
            "type": "object",
            "properties": {"a": {"type": "string"}, "n": {"type": "integer"}, "o": {}},
        },
        "g": {},
    }
)


class TargetError(Exception):
    """Bytes for which a rule of a target does not hold."""


def require(is_so: bool, rule: str) -> None:
    """Raise TargetError, with the rule, if it is not so."""
    if not is_so:
        raise TargetError(rule)


class _RaisingHandler(logging.Handler):
    """Raises what the product logs as an exception and goes on after."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            raise record.exc_info[1]


@contextlib.contextmanager
def _raising_logged_errors() -> Iterator[None]:
    log = logging.getLogger("headrace.frontend.tools")
    handler, propagates = _RaisingHandler(), log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagates


def codec(data: bytes) -> None:
    """Read a message: it is a DecodeError, or what its encoding gives again."""
    messages = CODECS[_choice(data, 0, len(CODECS))]
    try:
        message = messages.decode(data[1:])
    except DecodeError as error:
        require(str(error).isprintable(), "the error is one printable line")
        return
    encoded = messages.encode(message)
    require(messages.encode(messages.decode(encoded)) == encoded, "a message survives its codec")


def tool_parser(data: bytes) -> None:
    """Read an output with a tool parser: it says the same however it is split."""
    names = _parsers()
    spec = names[_choice(data, 0, len(names))]
    with _raising_logged_errors():
        _compare_pieces(
            lambda: ToolCallReader(find_parser(spec), new_id=lambda: "c", tools=TOOLS), data
        )


@functools.cache
def _parsers() -> list[str]:
    """Return the names of the product's own parsers that need no settings."""
    own = [name for name in parser_names() if name != "generic"]
    return [name for name in own if type(find_parser(name)).__module__.startswith("headrace.")]


def reasoning(data: bytes) -> None:
    """Separate reasoning from an output: it is the same however the output is split."""
    names = format_names()
    found = parse_format(names[_choice(data, 0, len(names))])
    is_open = len(data) > 1 and data[1] >= 128
    marks = found.marks(with_start=not is_open, with_calls=True)
    _compare_pieces(
        lambda: ReasoningReader(PlainReader(), marks=marks, is_open=is_open, include=True), data
    )


def _compare_pieces(new_reader: Callable[[], MessageReader], data: bytes) -> None:
    text = _text(data[2:])
    whole = _read(new_reader(), [text])
    pieces = _read(new_reader(), _pieces(text, 1 + _choice(data, 1, MAX_PIECE)))
    require(pieces == whole, "pieces say what the whole says")


def _read(reader: MessageReader, pieces: Iterable[str]) -> tuple[Any, ...]:
    message = CollectedMessage()
    for piece in pieces:
        message.add(reader.feed(piece))
    message.add(reader.finish())
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    return message.content, message.reasoning, calls


def repaired(data: bytes) -> None:
    """Repair JSON: what comes out is JSON, and what was valid has not changed."""
    text = "{["[_choice(data, 0, 2)] + _text(data[1:])
    result = json.loads(repaired_json(text))
    read_object(text)
    if _is_json(text):
        require(result == json.loads(text), "valid JSON keeps its value")


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _reject_constant(name: str) -> None:
    raise ValueError(name)


def detokenizer(data: bytes) -> None:
    """Convert tokens to text: the pieces are the whole text, as the bytes say it."""
    tokenizer = _byte_tokenizer()
    ids = list(data[1:])
    table = token_bytes_of(tokenizer)
    assert table is not None
    wanted = bytes(data[1:]).decode("utf-8", errors="replace")
    require(join(ByteDetokenizer(table, frozenset()), ids) == wanted, "bytes give their text")
    window: Detokenizer = WindowDetokenizer(tokenizer, frozenset())
    if _is_text(data[1:]):
        require(join(window, ids) == wanted, "windows give the same text")
    else:
        join(window, ids)


@functools.cache
def _byte_tokenizer() -> Tokenizer:
    """Return a tokenizer whose token n is the byte n."""
    from headrace.frontend.text.token_bytes import byte_alphabet

    vocabulary = byte_alphabet()
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def stop_strings(data: bytes) -> None:
    """Look for stop strings: the text ends at the first, however it is split."""
    parts = _text(data[1:]).split("\n")
    stops, text = tuple(stop for stop in parts[:4] if stop), "\n".join(parts[4:])
    results = []
    for pieces in ([text], _pieces(text, 1 + _choice(data, 0, MAX_PIECE))):
        matcher, shown, stop = StopMatcher(stops, include_stop=False), "", None
        for piece in pieces:
            match = matcher.feed(piece)
            shown, stop = shown + match.text, match.stop
            if stop is not None:
                break
        else:
            shown += matcher.flush()
        results.append((shown, stop))
    require(results[0] == results[1], "a stop string is found wherever a text is split")
    shown, stop = results[0]
    require((stop is None) == (shown == text), "without a stop string all text is shown")
    require(not any(each in shown for each in stops), "no stop string is shown")


def gguf(data: bytes) -> None:
    """Read the header of a GGUF file: GGUFError, or facts that are numbers and text."""
    with tempfile.NamedTemporaryFile(dir=_scratch(), suffix=".gguf") as file:
        file.write(data)
        file.flush()
        try:
            header = read_gguf_header(Path(file.name))
        except GGUFError as error:
            require("\n" not in str(error), "the error is one line")
            return
    require(header.parameters >= 0 and header.size_bytes >= 0, "sizes are not negative")


def _scratch() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "codec": codec,
    "detokenizer": detokenizer,
    "gguf": gguf,
    "reasoning": reasoning,
    "repaired": repaired,
    "stop_strings": stop_strings,
    "tool_parser": tool_parser,
}


def _choice(data: bytes, position: int, count: int) -> int:
    return data[position] % count if len(data) > position else 0


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _pieces(text: str, size: int) -> Sequence[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]
