"""Count the reasoning tokens in the choices of a request."""

from collections.abc import Sequence

from headrace.frontend.chat.message import MessageReader
from headrace.frontend.chat.reasoning.plan import ReasoningPlan
from headrace.frontend.chat.reasoning.reader import ReasoningReader
from headrace.protocol.common.thinking import ThinkingTracker


class ReasoningTokenCounter:
    """Counts the reasoning tokens of each choice by the rule of protocol.common.thinking.

    Workers enforce thinking budgets by the same rule: it counts the tokens before the first end
    delimiter, without a start delimiter. A model may write its end delimiter in other tokens than
    the tokenizer would; then the tokens that came before the reader found it in the text count.
    """

    def __init__(self, readers: Sequence[MessageReader], plan: ReasoningPlan | None) -> None:
        self._trackers: list[tuple[ReasoningReader, ThinkingTracker] | None] = [
            _tracker(reader, plan) for reader in readers
        ]

    def add(self, index: int, token_ids: Sequence[int]) -> None:
        """Count more tokens of a choice. Call it before the choice's reader gets their text."""
        tracked = self._trackers[index]
        if tracked is not None and not tracked[0].is_over:
            tracked[1].feed(token_ids)

    def tokens(self, index: int) -> int:
        """Return how many reasoning tokens a choice has so far."""
        tracked = self._trackers[index]
        return 0 if tracked is None else tracked[1].num_tokens


def _tracker(
    reader: MessageReader, plan: ReasoningPlan | None
) -> tuple[ReasoningReader, ThinkingTracker] | None:
    """Return the reader with a tracker of its tokens; None if there is no reasoning to count."""
    tracker = None if plan is None else plan.tracker()
    return (
        (reader, tracker) if tracker is not None and isinstance(reader, ReasoningReader) else None
    )
