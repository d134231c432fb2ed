"""A model's marks of reasoning, as text and in its tokens."""

from dataclasses import dataclass

from headrace.frontend.text.detokenizer import join
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.reasoning import ReasoningFormat


@dataclass(frozen=True, slots=True)
class ReasoningDelimiters:
    """start_ids, end_ids, before_ids: the tokens of the format's marks; () for a mark that the
    tokenizer cannot write.
    special_ids: those of them that texts usually leave out, though reasoning is told by them.
    """

    format: ReasoningFormat
    start_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    before_ids: tuple[tuple[int, ...], ...]
    special_ids: frozenset[int]

    @classmethod
    def of(cls, format_: ReasoningFormat, text: ModelTokenizer) -> "ReasoningDelimiters":
        start_ids, end_ids = _ids(text, format_.start), _ids(text, format_.end)
        special = filter(text.is_special, (*start_ids, *end_ids))
        return cls(
            format_,
            start_ids,
            end_ids,
            tuple(_ids(text, mark) for mark in format_.ends_before),
            frozenset(special),
        )


def _ids(text: ModelTokenizer, mark: str) -> tuple[int, ...]:
    token_ids = text.tokenizer.encode(mark, add_special_tokens=False).ids
    written = join(text.detokenizer(skip_special_tokens=False), token_ids)
    return tuple(token_ids) if mark in written else ()
