"""Counts the tokens of reasoning in the choices of a request."""

from collections.abc import Sequence

from headrace.frontend.chat.message import MessageReader
from headrace.frontend.chat.reasoning.reader import ReasoningReader
from headrace.frontend.chat.reasoning.plan import ReasoningPlan
from headrace.protocol.common.thinking import ThinkingTracker


class ReasoningTokenCounter:
    """The rule is protocol.common.thinking's, the one by which workers hold a thinking budget:
    tokens
    before the first end mark in tokens, a start mark not among them. A model may write its end mark
    in other tokens than the tokenizer would; then those count that came before the reader saw it.
    """

    def __init__(self, readers: Sequence[MessageReader], thinking: ReasoningPlan | None) -> None:
        self._followed: list[tuple[ReasoningReader, ThinkingTracker] | None] = [
            _followed(reader, thinking) for reader in readers
        ]

    def add(self, choice: int, token_ids: Sequence[int]) -> None:
        """More of a choice's tokens; before its reader has their text."""
        followed = self._followed[choice]
        if followed is not None and not followed[0].is_over:
            followed[1].feed(token_ids)

    def tokens(self, choice: int) -> int:
        followed = self._followed[choice]
        return 0 if followed is None else followed[1].num_tokens


def _followed(
    reader: MessageReader, thinking: ReasoningPlan | None
) -> tuple[ReasoningReader, ThinkingTracker] | None:
    block = None if thinking is None else thinking.block()
    return (reader, block) if block is not None and isinstance(reader, ReasoningReader) else None
