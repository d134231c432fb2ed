"""Find where the last tokens of a sequence occurred before: the drafts of prompt lookup.

Texts repeat themselves: an answer quotes its prompt, code is written again with one change. If the
last few tokens occurred earlier in the text, it is likely to continue as it did there (Saxena,
"Prompt Lookup Decoding", 2023; Yang et al., "Inference with Reference", 2023).
"""

from collections.abc import Sequence
from itertools import count


class NgramIndex:
    """The last position of each n-gram of a growing sequence, n from `shortest` to `longest`.

    A new token costs a few dictionary entries, whatever the length of the sequence; they take about
    0.2 kB for each n, where the token's keys and values take tens.
    """

    __slots__ = ("_known", "_longest", "_positions", "_shortest")

    def __init__(self, shortest: int, longest: int) -> None:
        self._shortest = shortest
        self._longest = longest
        self._known = 0  # n-grams that end before this position are in
        # For each n: n-gram to the position of the token after its last occurrence.
        self._positions: list[dict[tuple[int, ...], int]] = [
            {} for _ in range(shortest, longest + 1)
        ]

    def propose(self, token_ids: Sequence[int], limit: int) -> list[int]:
        """Return up to `limit` tokens that may follow; empty if there is no guess.

        They are those that followed the latest earlier occurrence of the last tokens, of the
        longest n-gram that has one. Where the occurrence reaches the sequence's end, the guess
        continues with itself: a sequence that repeats with some period is assumed to go on so.

        token_ids: the whole sequence, which must start with that of the last call.
        """
        self._update(token_ids)
        for size in range(min(self._longest, len(token_ids) - 1), self._shortest - 1, -1):
            position = self._positions[size - self._shortest].get(tuple(token_ids[-size:]))
            if position is not None:
                return _copy(token_ids, position, limit)
        return []

    def _update(self, token_ids: Sequence[int]) -> None:
        """Add all n-grams that have a token after them."""
        for size, positions in enumerate(self._positions, start=self._shortest):
            start = max(self._known - size + 1, 0)
            fresh = token_ids[start:-1]
            grams = zip(*(fresh[offset:] for offset in range(size)), strict=False)
            positions.update(zip(grams, count(start + size), strict=False))
        self._known = max(len(token_ids) - 1, 0)


def _copy(token_ids: Sequence[int], position: int, limit: int) -> list[int]:
    """Return `limit` tokens from a position within the sequence on.

    Beyond its end they repeat.
    """
    following = token_ids[position : position + limit]
    return [following[offset % len(following)] for offset in range(limit)]
