"""Write embeddings in the forms of Cohere's API."""

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from headrace.frontend.errors import BadRequest
from headrace.frontend.openai_api.embedding_serializer import ordered
from headrace.frontend.pooling.similarity import vector_of
from headrace.frontend.schemas.pooling.cohere import EmbeddingType
from headrace.protocol.to_frontend import Pooled

_BITS = 8
_SIGN = 128  # of a byte of signs that is written as a signed number


def typed_embeddings(
    found: Sequence[Pooled], types: Sequence[EmbeddingType]
) -> dict[EmbeddingType, list[Any]]:
    """Return the embeddings in each of the forms."""
    return {kind: [_written(each, kind) for each in found] for kind in dict.fromkeys(types)}


def check_types(types: Sequence[EmbeddingType], size: int) -> None:
    """Raise BadRequest if embeddings of this size have no such form."""
    if size % _BITS and not {"binary", "ubinary"}.isdisjoint(types):
        raise BadRequest(
            f"embedding_types: bits are packed by {_BITS}, and an embedding has {size} numbers.",
            "embedding_types",
        )


def _written(pooled: Pooled, kind: EmbeddingType) -> Any:
    if kind == "base64":
        return b64encode(ordered(pooled.data, 4, "little")).decode("ascii")
    numbers = vector_of(pooled)
    if kind == "float":
        return numbers
    offset = _SIGN if kind == "binary" else 0
    starts = range(0, len(numbers), _BITS)
    return [_packed(numbers[start : start + _BITS]) - offset for start in starts]


def _packed(numbers: Sequence[float]) -> int:
    """Return the signs of numbers as bits, the first of them the highest; 1: not negative."""
    byte = 0
    for number in numbers:
        byte = byte << 1 | (number >= 0)
    return byte
