"""The delimiters of a model's reasoning, as text and as tokens."""

from dataclasses import dataclass

from headrace.frontend.text.detokenizer import join
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.reasoning import ReasoningFormat


@dataclass(frozen=True, slots=True)
class ReasoningDelimiters:
    """The delimiters of a format, encoded by one tokenizer.

    start_ids, end_ids, ends_before_ids: token ids of the format's delimiters; () for a delimiter
        that the tokenizer cannot encode.
    special_token_ids: those among start_ids and end_ids that detokenizers skip by default, although
        reasoning is recognized by them.
    """

    format: ReasoningFormat
    start_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    ends_before_ids: tuple[tuple[int, ...], ...]
    special_token_ids: frozenset[int]

    @classmethod
    def encode(cls, format_: ReasoningFormat, tokenizer: ModelTokenizer) -> "ReasoningDelimiters":
        """Encode the delimiters of a format."""
        start_ids, end_ids = (
            _token_ids(tokenizer, format_.start),
            _token_ids(tokenizer, format_.end),
        )
        special = filter(tokenizer.is_special, (*start_ids, *end_ids))
        return cls(
            format_,
            start_ids,
            end_ids,
            tuple(_token_ids(tokenizer, delimiter) for delimiter in format_.ends_before),
            frozenset(special),
        )


def _token_ids(tokenizer: ModelTokenizer, delimiter: str) -> tuple[int, ...]:
    """Return the token ids of a delimiter; () if they do not decode to it."""
    token_ids = tokenizer.backend.encode(delimiter, add_special_tokens=False).ids
    decoded = join(tokenizer.detokenizer(skip_special_tokens=False), token_ids)
    return tuple(token_ids) if delimiter in decoded else ()
