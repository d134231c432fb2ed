"""Detect that an output repeats itself."""

from collections.abc import Sequence

from headrace.protocol.sampling import RepetitionRule


class RepetitionDetector:
    """Follows one output of at most max_tokens tokens.

    Patterns that do not fit in there often enough are not searched for.

    An output ends with a pattern of `size` tokens `count` times in a row if each of its last
    `size * (count - 1)` tokens equals the one `size` before it. So for each size it is enough to
    know how many of the last tokens do, and a token costs no more than its own earlier
    occurrences among the tokens that a pattern can reach back to.
    """

    __slots__ = ("_equal", "_largest", "_next", "_params", "_repeats")

    def __init__(self, params: RepetitionRule, max_tokens: int) -> None:
        self._params = params
        self._largest = min(params.max_pattern_size, max_tokens // params.min_count)
        self._equal: dict[int, int] = {}  # size to tokens, where there are any
        self._next = 0
        self._repeats = False

    def follow(self, token_ids: Sequence[int], num_prompt: int) -> bool:
        """Return whether the output repeats itself.

        token_ids: prompt and output, of which all up to the last call's end is known already.
        """
        for position in range(max(self._next, num_prompt), len(token_ids)):
            self._add(token_ids, position, num_prompt)
        self._next = len(token_ids)
        return self._repeats

    def _add(self, token_ids: Sequence[int], position: int, num_prompt: int) -> None:
        params = self._params
        token_id = token_ids[position]
        self._repeats = False
        start = max(num_prompt, position - self._largest)
        stop = position - params.min_pattern_size + 1
        equal: dict[int, int] = {}
        while start < stop:
            try:
                start = token_ids.index(token_id, start, stop)
            except ValueError:
                break
            size = position - start
            length = equal[size] = self._equal.get(size, 0) + 1
            if length >= size * (params.min_count - 1):
                self._repeats = True
            start += 1
        self._equal = equal
