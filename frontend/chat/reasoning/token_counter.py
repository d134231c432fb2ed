"""Count the reasoning tokens in the choices of a request."""

from collections.abc import Sequence

from headrace.frontend.chat.message import MessageReader
from headrace.frontend.chat.reasoning.harmony import HarmonyReader
from headrace.frontend.chat.reasoning.plan import ReasoningPlan
from headrace.frontend.chat.reasoning.reader import ReasoningReader
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.common.thinking import ThinkingTracker


class ReasoningTokenCounter:
    """Counts the reasoning tokens of each choice by the rule of protocol.common.thinking.

    Workers enforce thinking budgets by the same rule: it counts the tokens before the first end
    delimiter, without a start delimiter.
    """

    def __init__(
        self,
        readers: Sequence[MessageReader],
        plan: ReasoningPlan | None,
        tokenizer: ModelTokenizer,
    ) -> None:
        self._readers = readers
        self._has_grammar = plan is not None and plan.has_grammar
        self._trackers: list[ThinkingTracker | None] = [
            _tracker(reader, plan, tokenizer) for reader in readers
        ]

    def add(self, index: int, token_ids: Sequence[int]) -> None:
        """Count more tokens of a choice. Call it before the choice's reader gets their text.

        A grammar holds after the token that ends reasoning: white space in this token is no part of
        what matches it, so the reader drops it.
        """
        tracker, reader = self._trackers[index], self._readers[index]
        if tracker is None or tracker.is_over:
            return
        tracker.feed(token_ids)
        if self._has_grammar and isinstance(reader, ReasoningReader):
            reader.skip_space(tracker.space_after_end)

    def tokens(self, index: int) -> int:
        """Return how many reasoning tokens a choice has so far."""
        tracker = self._trackers[index]
        return 0 if tracker is None else tracker.num_tokens


def _tracker(
    reader: MessageReader, plan: ReasoningPlan | None, tokenizer: ModelTokenizer
) -> ThinkingTracker | None:
    """Return a tracker of the reader's tokens; None if there is no reasoning to count."""
    if plan is None or not isinstance(reader, ReasoningReader | HarmonyReader):
        return None
    return plan.tracker(tokenizer)
