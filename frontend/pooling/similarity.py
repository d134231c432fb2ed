"""Compare vectors of texts in the ways that models' authors name. No torch: frontends have none."""

import math
from array import array
from collections.abc import Callable, Sequence
from operator import mul, sub

from headrace.protocol.to_frontend import Pooled

Similarity = Callable[[Sequence[float], Sequence[float]], float]


def similarity_of(name: str) -> Similarity:
    """Return the function of a name; the cosine if the name is unknown."""
    return _SIMILARITIES.get(name, _cosine)


def vector_of(pooled: Pooled) -> Sequence[float]:
    """Return the numbers of a text."""
    numbers = array("f")
    numbers.frombytes(pooled.data)
    return numbers.tolist()


def rows_of(pooled: Pooled) -> list[Sequence[float]]:
    """Return the vectors of a text's tokens."""
    numbers, width = vector_of(pooled), pooled.shape[-1]
    return [numbers[start : start + width] for start in range(0, len(numbers), width)]


def late_interaction(query: Sequence[Sequence[float]], text: Sequence[Sequence[float]]) -> float:
    """Return the sum, over a query's tokens, of the highest product with a token of the text.

    MaxSim, of "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction
    over BERT" (Khattab and Zaharia, 2020).
    """
    return sum(max(_dot(token, other) for other in text) for token in query)


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    product: float = sum(map(mul, one, other))
    return product


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return _dot(one, other) / lengths if lengths else 0.0


def _manhattan(one: Sequence[float], other: Sequence[float]) -> float:
    distance: float = sum(map(abs, map(sub, one, other)))
    return -distance


def _euclidean(one: Sequence[float], other: Sequence[float]) -> float:
    return -math.dist(one, other)


_SIMILARITIES: dict[str, Similarity] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}
