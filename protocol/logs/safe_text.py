"""Make any text fit for one line of a log: no control characters, no secrets, a bounded length."""

import re
from traceback import TracebackException

from headrace.protocol.common.redact import redact_text

MAX_MESSAGE_CHARS = 1_000_000  # of a prompt, say, which operators may have logged whole
MAX_EXCEPTION_CHARS = 16_000
# In front of each line of an exception's text, so that none looks like a record.
EXCEPTION_INDENT = "  | "

# Control characters (C0, DEL, C1), line and paragraph separators, those that turn the direction of
# text, and surrogates, which cannot be encoded.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def one_line(text: str, max_chars: int = MAX_MESSAGE_CHARS) -> str:
    """Return a text for a line of the log: escaped, cut, and without secrets."""
    if len(text) > max_chars:
        text = f"{text[:max_chars]}... ({len(text) - max_chars} more characters)"
    return redact_text(_UNSAFE.sub(_escaped, text))


def exception_lines(error: BaseException) -> str:
    """Return an exception's traceback, each of its lines indented, escaped and without secrets."""
    text = "".join(TracebackException.from_exception(error, compact=True).format())
    if len(text) > MAX_EXCEPTION_CHARS:  # the end says what has happened
        text = f"...\n{text[-MAX_EXCEPTION_CHARS:]}"
    return "\n".join(EXCEPTION_INDENT + one_line(line) for line in text.rstrip().split("\n"))


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
