"""Where in a text's output the model thinks, as a function of its tokens alone.

Workers follow it to hold a thinking budget, frontends to count the tokens of reasoning, so that
both mean the same tokens.
"""

from collections.abc import Sequence
from typing import Self

Delimiter = tuple[int, ...]


class ThinkingTracker:
    """Follows an output from its first token on.

    start: the mark that may stand at the beginning of the output; () where none is expected.
    ends: the marks that end thinking, none of them empty.
    is_open: whether the output begins with thinking, start mark or not.

    num_fed: tokens fed until thinking was over.
    is_over: whether there is no thinking from here on.
    """

    __slots__ = ("_ends", "_lasts", "_skipped", "_start", "_tail", "is_open", "is_over", "num_fed")

    def __init__(self, start: Delimiter, ends: Sequence[Delimiter], is_open: bool) -> None:
        self._start = start
        self._ends = ends
        self._lasts = frozenset(end[-1] for end in ends)
        self._tail: list[int] = []
        self._skipped = 0  # tokens seen that are marks
        self.is_open = is_open
        self.num_fed = 0
        self.is_over = not (is_open or start)

    @property
    def num_tokens(self) -> int:
        """Tokens of thinking, marks not among them."""
        return self.num_fed - self._skipped if self.is_open else 0

    @property
    def missing_start(self) -> Delimiter:
        """What is missing of the start mark, while the output may still begin with it."""
        return self._start[self.num_fed :]

    @property
    def missing_end(self) -> Delimiter:
        """What is missing of the first of the end marks, a part of which may be there."""
        end, tail = self._ends[0], tuple(self._tail)
        for count in range(min(len(end) - 1, len(tail)), 0, -1):
            if tail[-count:] == end[:count]:
                return end[count:]
        return end

    def copy(self) -> Self:
        """A block that goes on from here by itself."""
        other = type(self)(self._start, self._ends, self.is_open)
        other._tail, other._skipped = self._tail, self._skipped
        other.num_fed, other.is_over = self.num_fed, self.is_over
        return other

    def feed(self, token_ids: Sequence[int]) -> None:
        """More of the output."""
        place = 0
        while self.missing_start and place < len(token_ids) and not self.is_over:
            self._feed_start(token_ids[place])
            place += 1
        if not self.is_over:
            self._feed_thinking(token_ids[place:])

    def _feed_start(self, token_id: int) -> None:
        if token_id == self._start[self.num_fed]:
            self._tail = [*self._tail, token_id]
            self.num_fed += 1
            if not self.missing_start:
                self.is_open, self._skipped, self._tail = True, self.num_fed, []
        elif self.is_open:
            begun = self._start[: self.num_fed]
            self._start, self._tail, self.num_fed = (), [], 0
            self._feed_thinking((*begun, token_id))
        else:
            self.is_over = True

    def _feed_thinking(self, token_ids: Sequence[int]) -> None:
        text = [*self._tail, *token_ids]
        before = len(self._tail)
        for place, token_id in enumerate(token_ids, start=before + 1):
            if token_id not in self._lasts:
                continue
            for end in self._ends:
                if tuple(text[max(0, place - len(end)) : place]) == end:
                    self.num_fed += place - before
                    self._skipped += len(end)
                    self.is_over = True
                    return
        self.num_fed += len(token_ids)
        self._tail = text[-max(map(len, self._ends)) :]
