"""Where in a text its last tokens stood before: the guesses of prompt lookup.

Texts repeat themselves: an answer quotes its prompt, code is written again with one change. If the
last few tokens stood earlier in the text, it is likely to go on as it did there (Saxena, "Prompt
Lookup Decoding", 2023; Yang et al., "Inference with Reference", 2023).
"""

from collections.abc import Sequence
from itertools import count


class NgramIndex:
    """The last place of each n-gram of a text that only grows, for n from `shortest` to `longest`.

    A new token costs a few dictionary entries, whatever the length of the text; they take about
    0.2 kB for each n, where the token's keys and values take tens.
    """

    __slots__ = ("_known", "_longest", "_places", "_shortest")

    def __init__(self, shortest: int, longest: int) -> None:
        self._shortest = shortest
        self._longest = longest
        self._known = 0  # n-grams that end before this place are in
        # For each n: n-gram to the place of the token after its last occurrence.
        self._places: list[dict[tuple[int, ...], int]] = [{} for _ in range(shortest, longest + 1)]

    def propose(self, token_ids: Sequence[int], limit: int) -> list[int]:
        """Up to `limit` tokens that may follow: those that followed the latest earlier occurrence
        of the last tokens, the longest n-gram that has one.

        token_ids: the whole text; what an earlier call was given is its beginning. Where the
        occurrence reaches into the text's end, the guess goes on with itself: a text that repeats
        with some period is taken to go on so.
        """
        self._update(token_ids)
        for size in range(min(self._longest, len(token_ids) - 1), self._shortest - 1, -1):
            place = self._places[size - self._shortest].get(tuple(token_ids[-size:]))
            if place is not None:
                return _copy(token_ids, place, limit)
        return []

    def _update(self, token_ids: Sequence[int]) -> None:
        """Take in all n-grams that have a token after them."""
        for size, places in enumerate(self._places, start=self._shortest):
            start = max(self._known - size + 1, 0)
            fresh = token_ids[start:-1]
            grams = zip(*(fresh[offset:] for offset in range(size)), strict=False)
            places.update(zip(grams, count(start + size), strict=False))
        self._known = max(len(token_ids) - 1, 0)


def _copy(token_ids: Sequence[int], place: int, limit: int) -> list[int]:
    """`limit` tokens from `place` on, which is within the text; beyond its end they repeat."""
    following = token_ids[place : place + limit]
    return [following[offset % len(following)] for offset in range(limit)]
