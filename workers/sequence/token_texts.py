"""The texts of a model's tokens, which workers need where delimiters are followed by their text."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property

from llguidance import LLTokenizer

from headrace.protocol.common.reasoning_text import held_chars


class TokenTexts:
    """The text of each token, with a character for each of its bytes.

    texts: by token id. encode: returns the tokens of any text, in this form.
    """

    def __init__(self, texts: Sequence[str], encode: Callable[[str], Sequence[int]]) -> None:
        self._texts = texts
        self._encode = encode
        self._straddling: dict[tuple[tuple[str, ...], str], tuple[int, ...]] = {}

    @classmethod
    def of(cls, tokenizer: LLTokenizer) -> "TokenTexts":
        """Read the texts of a tokenizer's tokens, which takes some 50 ms."""
        texts = [
            tokenizer.decode_bytes([token_id]).decode("latin-1")
            for token_id in range(tokenizer.vocab_size)
        ]
        return cls(texts, lambda text: tokenizer.tokenize_bytes(text.encode("latin-1")))

    def text(self, token_id: int) -> str:
        """Return the text of a token."""
        return self._texts[token_id]

    def next_of(self, rest: str, token_ids: Sequence[int]) -> int:
        """Return the first token of the rest of a text.

        token_ids: the whole text's own tokens, which are preferred.
        """
        left = ""
        for token_id in reversed(token_ids):
            left = self._texts[token_id] + left
            if left == rest:
                return token_id
        return self._encode(rest)[0]

    def straddling(self, ends: tuple[str, ...], held: str) -> tuple[int, ...]:
        """Return the tokens that would complete an end and go on after it, not with white space.

        held: the text before the token that may be a part of an end.
        """
        key = (ends, held)
        found = self._straddling.get(key)
        if found is None:
            token_ids = set[int]()
            for end in ends:
                token_ids |= self._containing(end)
                count = held_chars(held, end)
                while count:
                    token_ids |= self._longer_than(end[count:])
                    count = held_chars(end[1:count], end)
            found = self._straddling[key] = tuple(sorted(token_ids))
        return found

    @cached_property
    def _sorted(self) -> list[tuple[str, int]]:
        return sorted((text, token_id) for token_id, text in enumerate(self._texts))

    def _longer_than(self, beginning: str) -> set[int]:
        """Return the tokens whose texts go on after this beginning, not with white space."""
        found = set()
        for position in range(bisect_left(self._sorted, (beginning, -1)), len(self._sorted)):
            text, token_id = self._sorted[position]
            if not text.startswith(beginning):
                break
            if text[len(beginning) :].strip():
                found.add(token_id)
        return found

    def _containing(self, end: str) -> set[int]:
        """Return the tokens that hold a whole end and go on after it, not with white space."""
        return {
            token_id
            for token_id, text in enumerate(self._texts)
            if end in text and text.partition(end)[2].strip()
        }
