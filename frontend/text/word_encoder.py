"""Tokenize a long text word by word, each distinct word once.

Byte-level tokenizers cut a text into words by a regular expression, and tokenize each word by
itself. For ASCII those expressions can be stated exactly in Python's, whose matches cost a tenth of
the library's. Whatever is near another character goes to the library, cut where a word begins in
any case.

All expressions here have this in common: a word depends only on what follows its beginning, and a
space or a line break after a letter or digit, or a space after any visible character, begins a new
word.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from tokenizers import Tokenizer, models

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_AFTER = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _AFTER
_QWEN2 = _SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _AFTER

# The same for ASCII, before white space; then white space.
_NO_LETTER = r"\r\nA-Za-z0-9\x80-\U0010ffff"
_PUNCTUATION = r" ?[^\sA-Za-z0-9\x80-\U0010ffff]+"
_GPT2_WORDS = rf"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+|{_PUNCTUATION}"
_ANY_SPACE = r"\s+(?!\S)|\s+"
_LINES_SPACE = rf"\s*[\r\n]+|{_ANY_SPACE}"
_EXPRESSIONS = {
    _GPT2: (_GPT2_WORDS, _ANY_SPACE),
    _LLAMA3: (
        rf"{_SUFFIX}|[^{_NO_LETTER}]?[A-Za-z]+|[0-9]{{1,3}}|{_PUNCTUATION}[\r\n]*",
        _LINES_SPACE,
    ),
    _QWEN2: (rf"{_SUFFIX}|[^{_NO_LETTER}]?[A-Za-z]+|[0-9]|{_PUNCTUATION}[\r\n]*", _LINES_SPACE),
}
# Digits are words of one digit, and what is before one ends like a text.
_GPT2_DIGITS = (
    rf"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+|[0-9]|{_PUNCTUATION}",
    r"\s+(?![^\s0-9])|\s+",
)

_CERTAIN_START = r"(?:(?<=[!-~])(?= )|(?<=[A-Za-z0-9])(?=\n))"
_START = re.compile(_CERTAIN_START)

# Characters that are cut into words in one call, which nothing can interrupt.
_WINDOW = 64 * 1024
# Cutting a window into words pays if one of so many is new, and if characters have so few bytes.
_REPETITIONS = 4
_MOST_BYTES = 1.1
# Windows that are left as they are after one for which it has not paid.
_GROUPS_UNCUT = 4


class Piece(NamedTuple):
    """An added token, or what stands between two of them."""

    text: str
    is_added: bool = False


# Pieces of texts, each with the token ids of its text so far.
Group = Sequence[tuple[list[int], Piece]]


class WordEncoder:
    """Tokenizes texts word by word; the words of one call are remembered until its end."""

    def __init__(self, backend: Tokenizer, words: str, space: str) -> None:
        """words, space: expressions for ASCII, from the table above."""
        self._backend = backend
        certain = rf"(?>{words}|(?!\s+[^\x00-\x7f])(?:{space}))(?![^\x00-\x7f])"
        other = rf"[\x00-\x7f]*[^\x00-\x7f](?s:.*?)(?:{_CERTAIN_START}|\Z)"
        self._pattern = re.compile(f"{certain}|{other}", re.ASCII)

    @classmethod
    def of(cls, backend: Tokenizer) -> "WordEncoder | None":
        """Return the encoder of a tokenizer; None if it is not known to be exact."""
        if not _is_plain(backend):
            return None
        found = _expressions(_settings(backend.pre_tokenizer))
        return None if found is None else cls(backend, *found)

    def encode(self, texts: Sequence[Sequence[Piece]]) -> list[list[int]]:
        """Return the token ids of each text, given as its pieces."""
        encoded: list[list[int]] = [[] for _ in texts]
        known: dict[str, list[int]] = {}
        whole_groups = 0  # that are still to be left uncut
        for group in _groups(texts, encoded):
            if whole_groups == 0 and not self._encode_words(group, known):
                whole_groups = _GROUPS_UNCUT
            elif whole_groups > 0:
                self._encode_pieces(group)
                whole_groups -= 1
        return encoded

    def _encode_words(self, group: Group, known: dict[str, list[int]]) -> bool:
        """Append the token ids of each piece to its list, and return whether cutting it paid.

        known: the words so far.
        """
        words = [self._words(piece) for _, piece in group]
        new = [word for word in dict.fromkeys(chain.from_iterable(words)) if word not in known]
        if len(new) * _REPETITIONS > sum(map(len, words)):
            self._encode_pieces(group)
            return False
        encoded = self._backend.encode_batch_fast(new, add_special_tokens=False)
        known.update(zip(new, [each.ids for each in encoded], strict=True))
        for (token_ids, _), of_piece in zip(group, words, strict=True):
            token_ids += chain.from_iterable(map(known.__getitem__, of_piece))
        return True

    def _encode_pieces(self, group: Group) -> None:
        texts = [piece.text for _, piece in group]
        encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        for (token_ids, _), each in zip(group, encoded, strict=True):
            token_ids += each.ids

    def _words(self, piece: Piece) -> list[str]:
        """Return the words of a piece, or the piece itself if cutting it would not pay."""
        text = piece.text
        if piece.is_added or len(text) > 2 * _WINDOW:  # no word begins for long
            return [text]
        if not text.isascii() and len(text.encode()) > len(text) * _MOST_BYTES:
            return [text]
        return self._pattern.findall(text)


def _groups(texts: Iterable[Iterable[Piece]], encoded: Iterable[list[int]]) -> Iterator[Group]:
    """Yield the pieces in groups of about the size of a window, each with its text's token ids."""
    group, size = list[tuple[list[int], Piece]](), 0
    for pieces, token_ids in zip(texts, encoded, strict=True):
        for piece in pieces:
            for window in [piece] if piece.is_added else _windows(piece.text):
                group.append((token_ids, window))
                size += len(window.text)
                if size >= _WINDOW:
                    yield group
                    group, size = [], 0
    if group:
        yield group


def _windows(text: str) -> Iterator[Piece]:
    """Yield a text in pieces of some length, cut where words begin."""
    start = 0
    while len(text) - start > _WINDOW:
        found = _START.search(text, start + _WINDOW)
        if found is None:
            break
        yield Piece(text[start : found.start()])
        start = found.start()
    if start < len(text):
        yield Piece(text[start:])


def _settings(component: Any) -> dict[str, Any] | None:
    """Return the settings of a component, as tokenizer.json has them; None without a component."""
    if component is None:
        return None
    settings: dict[str, Any] = json.loads(component.__getstate__())
    return settings


def _is_plain(backend: Tokenizer) -> bool:
    """Return whether words are tokenized by themselves, whatever is beside them."""
    model, added = backend.model, backend.get_added_tokens_decoder().values()
    return (
        isinstance(model, models.BPE)
        and not model.dropout
        and _settings(backend.normalizer) in (None, {"type": "NFC"})
        and not any(
            token.normalized or token.lstrip or token.rstrip or token.single_word for token in added
        )
    )


def _expressions(pre_tokenizer: dict[str, Any] | None) -> tuple[str, str] | None:
    """Return the expressions of a tokenizer's words and white space; None if they are not known."""
    if pre_tokenizer is None:
        return None
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    *before, last = steps
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if last.get("use_regex", True):
        if not before:
            return _EXPRESSIONS[_GPT2]
        return _GPT2_DIGITS if before == [{"type": "Digits", "individual_digits": True}] else None
    if len(before) != 1 or before[0]["type"] != "Split":
        return None
    (split,) = before
    if split["behavior"] != "Isolated" or split["invert"]:
        return None
    return _EXPRESSIONS.get(split["pattern"].get("Regex", ""))
