"""Embed a text that is longer than the model takes: in pieces, by the mean of their vectors.

A piece is as many of the text's tokens as the model takes, special tokens counted, and weighs as
many; pieces get no special tokens of their own.
"""

from collections.abc import Sequence
from dataclasses import replace

from headrace.protocol.to_frontend import Pooled
from headrace.protocol.to_worker import Encode


class TextPieces:
    """The pieces of a text that has to be run in several, and what came of them.

    size: tokens of a piece. is_whole: whether the text is its only piece.
    """

    def __init__(self, request: Encode, size: int) -> None:
        self._request, self._size = request, size
        self._taken = 0
        self.is_whole = len(request.prompt_token_ids) <= size
        self.found: list[tuple[Pooled, int]] = []

    @property
    def next_tokens(self) -> int:
        """How many tokens the next piece has."""
        return min(len(self._request.prompt_token_ids) - self._taken, self._size)

    @property
    def left(self) -> bool:
        """Whether there is a piece that was not taken."""
        return self._taken < len(self._request.prompt_token_ids)

    @property
    def are_found(self) -> bool:
        """Whether all pieces have been run."""
        tokens = sum(count for _, count in self.found)
        return tokens == len(self._request.prompt_token_ids)

    def take(self) -> Encode:
        """Return the next piece as a request of its own."""
        request, start = self._request, self._taken
        self._taken += self.next_tokens
        if self.is_whole:
            return request
        ids = request.prompt_token_ids[start : self._taken]
        return replace(
            request,
            prompt_token_ids=ids,
            token_type_ids=request.token_type_ids[start : self._taken],
            prompt_length=max(0, min(request.prompt_length - start, len(ids) - 1)),
            number_format="float32",
        )

    def add(self, piece: Encode, pooled: Pooled) -> None:
        """Keep what came of a piece."""
        self.found.append((pooled, len(piece.prompt_token_ids)))


def mean_of(found: Sequence[tuple[Pooled, int]]) -> list[float]:
    """Return the mean of pieces' vectors, each weighed by its tokens."""
    total = sum(weight for _, weight in found)
    sums = [0.0] * found[0][0].shape[0]
    for pooled, weight in found:
        numbers = memoryview(pooled.data).cast("f")
        for index, number in enumerate(numbers):
            sums[index] += number * weight
    return [number / total for number in sums]
