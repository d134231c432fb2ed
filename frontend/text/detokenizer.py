"""Convert tokens to text, one by one, as they come from a worker.

The pieces, joined, are the text of all tokens. A character whose bytes come in several tokens is
held back until it is complete; invalid UTF-8 becomes U+FFFD, as in the WHATWG decoder.
"""

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol

from tokenizers import Tokenizer

from headrace.frontend.text.token_bytes import TokenBytes

# Tokens at the end of a prompt that may hold the first bytes of the output's first character.
CONTEXT_TOKENS = 8

# A character has at most four bytes, so text that is still incomplete after so many tokens stays
# incomplete.
_MAX_HELD_TOKENS = 8

_UTF8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    """Converts the tokens of one text to text."""

    def feed(self, token_id: int) -> str:
        """Return the text that this token completes; it may be empty."""
        ...

    def flush(self) -> str:
        """Return the text held back at the end: U+FFFD for an unfinished character, or ""."""
        ...


class ByteDetokenizer:
    """Joins the bytes of the tokens. The work for a token does not depend on the tokens before it.

    hidden: tokens that leave no text.
    at_start: whether the text begins here, so that a space that the tokenizer has added is left
        out.
    """

    def __init__(
        self, token_bytes: TokenBytes, hidden: frozenset[int], at_start: bool = False
    ) -> None:
        self._token_bytes = token_bytes
        self._hidden = hidden
        self._decoder = _UTF8("replace")
        self._strips_space = at_start and token_bytes.strips_first_space
        # Whether a character may begin here: then a token that is complete text is shown as it is.
        self._is_at_boundary = not self._strips_space

    def feed(self, token_id: int) -> str:
        if token_id in self._hidden:
            return ""
        if self._is_at_boundary:
            text = self._token_bytes.text_of(token_id)
            if text is not None:
                return text
        text = self._decode(self._token_bytes[token_id])
        held, _ = self._decoder.getstate()
        self._is_at_boundary = not (self._strips_space or held)
        return text

    def _decode(self, data: bytes) -> str:
        if self._strips_space and data:
            self._strips_space = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data)

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """Converts tokens that have no text of their own.

    Decodes a short window twice, without and with the new tokens, and returns the difference.
    """

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._context: list[int] = []
        self._held: list[int] = []

    def feed(self, token_id: int) -> str:
        if token_id in self._hidden:
            return ""
        self._held.append(token_id)
        text = self._difference()
        if text.endswith("\ufffd") and len(self._held) < _MAX_HELD_TOKENS:
            return ""
        self._context = (self._context + self._held)[-CONTEXT_TOKENS:]
        self._held = []
        return text

    def flush(self) -> str:
        text = self._difference() if self._held else ""
        self._held = []
        return text

    def _difference(self) -> str:
        before = self._tokenizer.decode(self._context, skip_special_tokens=False)
        after = self._tokenizer.decode(self._context + self._held, skip_special_tokens=False)
        return after[len(before) :]


def join(detokenizer: Detokenizer, token_ids: Iterable[int]) -> str:
    """Return the text of all the tokens, including the unfinished end."""
    return "".join([detokenizer.feed(token_id) for token_id in token_ids]) + detokenizer.flush()


def feed_prompt(detokenizer: Detokenizer, prompt_token_ids: Sequence[int]) -> Detokenizer:
    """Feed the end of a prompt to a detokenizer and return it."""
    for token_id in prompt_token_ids[-CONTEXT_TOKENS:]:
        detokenizer.feed(token_id)
    return detokenizer
