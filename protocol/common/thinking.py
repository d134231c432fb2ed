"""Find the reasoning in an output by its tokens alone.

Workers use it to enforce thinking budgets and frontends to count reasoning tokens, so that both
mean the same tokens.
"""

from collections.abc import Sequence
from typing import Self

Delimiter = tuple[int, ...]


class ThinkingTracker:
    """Follows an output from its first token on.

    start: the delimiter that may begin the output; () where none is expected.
    ends: the delimiters that end reasoning, none of them empty.
    is_open: whether the output begins with reasoning, with or without the start delimiter.

    num_fed: tokens fed until reasoning was over.
    is_over: whether there is no reasoning from here on.
    """

    __slots__ = (
        "_ends",
        "_last_ids",
        "_num_delimiter_tokens",
        "_start",
        "_tail",
        "is_open",
        "is_over",
        "num_fed",
    )

    def __init__(self, start: Delimiter, ends: Sequence[Delimiter], is_open: bool) -> None:
        self._start = start
        self._ends = ends
        self._last_ids = frozenset(end[-1] for end in ends)
        self._tail: list[int] = []
        self._num_delimiter_tokens = 0  # of the tokens fed
        self.is_open = is_open
        self.num_fed = 0
        self.is_over = not (is_open or start)

    @property
    def num_tokens(self) -> int:
        """Return the number of reasoning tokens, without delimiters."""
        return self.num_fed - self._num_delimiter_tokens if self.is_open else 0

    @property
    def missing_start(self) -> Delimiter:
        """Return the rest of the start delimiter, while the output may still begin with it."""
        return self._start[self.num_fed :]

    @property
    def missing_end(self) -> Delimiter:
        """Return the rest of the first end delimiter, a part of which may have come."""
        end, tail = self._ends[0], tuple(self._tail)
        for count in range(min(len(end) - 1, len(tail)), 0, -1):
            if tail[-count:] == end[:count]:
                return end[count:]
        return end

    def copy(self) -> Self:
        """Return an independent copy."""
        other = type(self)(self._start, self._ends, self.is_open)
        other._tail, other._num_delimiter_tokens = self._tail, self._num_delimiter_tokens
        other.num_fed, other.is_over = self.num_fed, self.is_over
        return other

    def feed(self, token_ids: Sequence[int]) -> None:
        """Follow more of the output."""
        position = 0
        while self.missing_start and position < len(token_ids) and not self.is_over:
            self._feed_start(token_ids[position])
            position += 1
        if not self.is_over:
            self._feed_thinking(token_ids[position:])

    def _feed_start(self, token_id: int) -> None:
        if token_id == self._start[self.num_fed]:
            self._tail = [*self._tail, token_id]
            self.num_fed += 1
            if not self.missing_start:
                self.is_open, self._num_delimiter_tokens, self._tail = True, self.num_fed, []
        elif self.is_open:
            partial_start = self._start[: self.num_fed]
            self._start, self._tail, self.num_fed = (), [], 0
            self._feed_thinking((*partial_start, token_id))
        else:
            self.is_over = True

    def _feed_thinking(self, token_ids: Sequence[int]) -> None:
        window = [*self._tail, *token_ids]
        num_tail = len(self._tail)
        for position, token_id in enumerate(token_ids, start=num_tail + 1):
            if token_id not in self._last_ids:
                continue
            for end in self._ends:
                if tuple(window[max(0, position - len(end)) : position]) == end:
                    self.num_fed += position - num_tail
                    self._num_delimiter_tokens += len(end)
                    self.is_over = True
                    return
        self.num_fed += len(token_ids)
        self._tail = window[-max(map(len, self._ends)) :]
