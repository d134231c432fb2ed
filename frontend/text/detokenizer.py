"""Tokens to text, one by one, as they come from a worker.

The pieces, joined, are the text of all tokens. A character whose bytes come in several tokens is
held back until it is whole; bytes that are no UTF-8 become U+FFFD, as WHATWG's decoder does it.
"""

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol

from tokenizers import Tokenizer

from headrace.frontend.text.token_bytes import TokenBytes

# Tokens of the prompt that may hold the first bytes of the output's first character.
CONTEXT_TOKENS = 8

# A character has at most four bytes, so a text that has not become whole after so many tokens
# never will.
_MAX_HELD_TOKENS = 8

_UTF8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    def feed(self, token_id: int) -> str:
        """The text that this token completes, perhaps none."""
        ...

    def flush(self) -> str:
        """What is held back at the end: U+FFFD for an unfinished character, else nothing."""
        ...


class ByteDetokenizer:
    """Joins the tokens' bytes. Its work per token does not depend on what came before.

    skip: tokens that leave no text. at_start: the text begins here, so that a space that only the
    tokenizer put there is left out.
    """

    def __init__(self, pieces: TokenBytes, skip: frozenset[int], at_start: bool = False) -> None:
        self._pieces = pieces
        self._skip = skip
        self._decoder = _UTF8("replace")
        self._strip = at_start and pieces.strips_first_space
        self._is_between = not self._strip  # characters: a whole one follows as it is

    def feed(self, token_id: int) -> str:
        if token_id in self._skip:
            return ""
        if self._is_between:
            text = self._pieces.whole(token_id)
            if text is not None:
                return text
        text = self._decode(self._pieces[token_id])
        held, _ = self._decoder.getstate()
        self._is_between = not (self._strip or held)
        return text

    def _decode(self, piece: bytes) -> str:
        if self._strip and piece:
            self._strip = False
            piece = piece.removeprefix(b" ")
        return self._decoder.decode(piece)

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For decoders whose tokens have no text of their own: decodes a short window twice, without
    and with the new tokens, and takes the difference."""

    def __init__(self, tokenizer: Tokenizer, skip: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skip = skip
        self._context: list[int] = []
        self._held: list[int] = []

    def feed(self, token_id: int) -> str:
        if token_id in self._skip:
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
    """The text of all the tokens, the unfinished end included."""
    return "".join([detokenizer.feed(token_id) for token_id in token_ids]) + detokenizer.flush()


def after_prompt(detokenizer: Detokenizer, prompt_token_ids: Sequence[int]) -> Detokenizer:
    """The same detokenizer, with the end of a prompt behind it."""
    for token_id in prompt_token_ids[-CONTEXT_TOKENS:]:
        detokenizer.feed(token_id)
    return detokenizer
