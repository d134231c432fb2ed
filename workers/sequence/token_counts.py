"""Count the tokens of a growing sequence."""

from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import count, repeat


class TokenCounts:
    """The distinct tokens of one sequence, and how often each is in its output.

    token_ids: distinct tokens of prompt and output, 64-bit integers in order of appearance.
    in_output: for each of them its count in the output, 32-bit floats; 0 for the prompt's own.

    Updating costs the tokens that came since the last time, not the whole sequence.
    """

    __slots__ = ("_indices", "_num_counted", "in_output", "token_ids")

    def __init__(self) -> None:
        self.token_ids = array("q")
        self.in_output = array("f")
        self._indices: dict[int, int] = {}
        self._num_counted = 0

    def update(self, token_ids: Sequence[int], num_prompt: int) -> None:
        """Count what has been appended to the sequence since the last call."""
        start = self._num_counted
        distinct = dict.fromkeys(token_ids[start:])
        fresh = [token_id for token_id in distinct if token_id not in self._indices]
        self._indices.update(zip(fresh, count(len(self.token_ids)), strict=False))
        self.token_ids.extend(fresh)
        self.in_output.extend(repeat(0.0, len(fresh)))
        for token_id, times in Counter(token_ids[max(start, num_prompt) :]).items():
            self.in_output[self._indices[token_id]] += times
        self._num_counted = len(token_ids)

    def extended(self, token_ids: Sequence[int]) -> "TokenCounts":
        """Return the counts with more output tokens; these stay as they are.

        The result cannot be updated.
        """
        more = TokenCounts()
        more.token_ids, more.in_output = self.token_ids[:], self.in_output[:]
        fresh: dict[int, int] = {}
        for token_id in token_ids:
            index = self._indices.get(token_id, fresh.get(token_id))
            if index is None:
                fresh[token_id] = index = len(more.token_ids)
                more.token_ids.append(token_id)
                more.in_output.append(0.0)
            more.in_output[index] += 1
        return more
