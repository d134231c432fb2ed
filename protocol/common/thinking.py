"""Count the reasoning tokens of an output.

Workers use it to enforce thinking budgets and frontends to count reasoning tokens, so that both
mean the same tokens.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Self

from headrace.protocol.common.reasoning_text import ReasoningMarks, ReasoningScanner


class ThinkingTracker:
    """Follows an output from its first token on, by the text of its tokens.

    is_open: whether the output begins with reasoning, with or without a start.
    text_of: returns the text of a token.

    num_fed: tokens fed until reasoning was over.
    """

    __slots__ = ("_ends", "_num_settled", "_num_start", "_scanner", "_text_of", "_total", "num_fed")

    def __init__(self, marks: ReasoningMarks, is_open: bool, text_of: Callable[[int], str]) -> None:
        self._scanner = ReasoningScanner(marks, is_open)
        self._text_of = text_of
        self._ends: list[int] = []  # of the tokens whose text the scanner holds: where they end
        self._num_settled = 0  # tokens before those
        self._num_start = 0  # tokens of the start
        self._total = 0
        self.num_fed = 0

    @property
    def is_over(self) -> bool:
        """Whether there is no reasoning from here on."""
        return self._scanner.is_over

    @property
    def is_open(self) -> bool:
        """Whether the output has or must have begun with reasoning."""
        return self._scanner.is_reasoning

    @property
    def num_tokens(self) -> int:
        """The number of reasoning tokens, without those of delimiters."""
        if not self.is_open:
            return 0
        if self.is_over:
            return max(0, self._tokens_before(self._scanner.end) - self._num_start)
        return self.num_fed - self._num_start

    @property
    def space_after_end(self) -> int:
        """Characters of white space that the token with the end of reasoning has after it."""
        if not self.is_over:
            return 0
        rest_begin = self._total - len(self._scanner.rest)
        token_end = next((end for end in self._ends if end >= rest_begin), rest_begin)
        text = self._scanner.rest[: token_end - rest_begin]
        return 0 if text.strip() else len(text)

    @property
    def num_before_call(self) -> int | None:
        """The number of reasoning tokens before what may become a call; None if nothing may."""
        position = self._scanner.pending_call
        if position is None:
            return None
        return max(0, self._tokens_before(position) - self._num_start)

    @property
    def missing_start(self) -> str:
        """The rest of the start, while the output may still begin with it; else ""."""
        return self._scanner.missing_start

    @property
    def missing_end(self) -> str:
        """The rest of the first end, a part of which may have come."""
        return self._scanner.missing_end

    def copy(self) -> Self:
        """Return an independent copy."""
        other = object.__new__(type(self))
        other._scanner, other._text_of = self._scanner.copy(), self._text_of
        other._ends, other._num_settled = list(self._ends), self._num_settled
        other._num_start, other._total = self._num_start, self._total
        other.num_fed = self.num_fed
        return other

    def feed(self, token_ids: Sequence[int]) -> None:
        """Follow more of the output."""
        if self.is_over:
            return
        texts = [self._text_of(token_id) for token_id in token_ids]
        scanner, had_begun = self._scanner, self._scanner.begin > 0
        scanner.feed("".join(texts))
        ends = list(accumulate(map(len, texts), initial=self._total))
        self._total = ends[-1]
        self._ends += ends[1:]
        self.num_fed += len(texts)
        if scanner.begin and not had_begun:
            before = self._tokens_before(scanner.begin - 1)
            self._num_start = before + 1  # the token that ends the start may go on
        if not scanner.is_over:
            settled = self._tokens_before(scanner.settled) - self._num_settled
            del self._ends[:settled]
            self._num_settled += settled

    def _tokens_before(self, position: int) -> int:
        """Return how many tokens end at or before a position, which must not be settled."""
        count = 0
        for end in self._ends:
            if end > position:
                break
            count += 1
        return self._num_settled + count
