"""The delimiters of a model's reasoning, as text and as tokens."""

import re
from dataclasses import dataclass
from itertools import chain

from headrace.frontend.chat.reasoning.harmony import TOKENS
from headrace.frontend.text.detokenizer import join
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.reasoning import ReasoningFormat, with_suffix

_SUFFIXED = re.compile(r"<think(:[^\s<>]+)>")


@dataclass(frozen=True, slots=True)
class ReasoningDelimiters:
    """The delimiters of a format, encoded by one tokenizer.

    start_ids, end_ids: token ids of the format's delimiters; () for a delimiter that the tokenizer
        cannot encode.
    special_token_ids: those that detokenizers skip by default, although reasoning is recognized by
        them.
    """

    format: ReasoningFormat
    start_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    special_token_ids: frozenset[int]

    @classmethod
    def encode(cls, format_: ReasoningFormat, tokenizer: ModelTokenizer) -> "ReasoningDelimiters":
        """Encode the delimiters of a format, with the suffix that the tokenizer's have, if any."""
        added = tokenizer.added_texts
        suffixes = {found[1] for text in added if (found := _SUFFIXED.fullmatch(text))}
        if format_.start == "<think>" and format_.start not in added and len(suffixes) == 1:
            format_ = with_suffix(format_, suffixes.pop())
        texts = [*format_.starts, *format_.ends, *format_.ends_before]
        texts += filter(None, (format_.answer_start, format_.answer_end))
        if format_.layout == "harmony":
            texts += TOKENS
        encoded = [_token_ids(tokenizer, text) for text in texts]
        special = filter(tokenizer.is_special, chain.from_iterable(encoded))
        return cls(
            format_,
            _token_ids(tokenizer, format_.start),
            _token_ids(tokenizer, format_.end),
            frozenset(special),
        )


def _token_ids(tokenizer: ModelTokenizer, delimiter: str) -> tuple[int, ...]:
    """Return the token ids of a delimiter; () if they do not decode to it."""
    token_ids = tokenizer.backend.encode(delimiter, add_special_tokens=False).ids
    decoded = join(tokenizer.detokenizer(skip_special_tokens=False), token_ids)
    return tuple(token_ids) if delimiter in decoded else ()
