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
