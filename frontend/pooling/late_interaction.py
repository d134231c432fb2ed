"""Score pairs by late interaction: workers compare the vectors of tokens.

First the first texts are turned into vectors; these go with each second text to a worker, which
answers with a number instead of the many vectors of that text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.pooling.similarity import vector_of
from headrace.frontend.pooling.start_encoding import start_encoding
from headrace.frontend.pooling.texts import EncodeInput
from headrace.frontend.schemas.pooling.scoring import ScoringFields

_ROUND_BYTES = 32 * 1024 * 1024  # of first texts' vectors that are on their way at once


async def score_late(
    context: Context,
    model: ServedModel,
    request: ScoringFields,
    firsts: Sequence[EncodeInput],
    seconds: Sequence[EncodeInput],
) -> list[float]:
    """Return the score of each pair. firsts: one for all pairs, or one for each.

    Raises ApiError or PoolError if a text fails.
    """
    queries = await start_encoding(context, model, request, "token_embed", firsts).collect()
    pairs = [
        replace(second, compared_with=queries[index if len(queries) > 1 else 0].data)
        for index, second in enumerate(seconds)
    ]
    scores: list[float] = []
    for part in _rounds(pairs):
        found = await start_encoding(context, model, request, "token_embed", part).collect()
        scores += [vector_of(each)[0] for each in found]
    return scores


def _rounds(pairs: Sequence[EncodeInput]) -> Iterator[Sequence[EncodeInput]]:
    """Yield pairs in their order, as many as may be on their way at once."""
    start = size = 0
    for index, pair in enumerate(pairs):
        if index > start and size + len(pair.compared_with) > _ROUND_BYTES:
            yield pairs[start:index]
            start, size = index, 0
        size += len(pair.compared_with)
    yield pairs[start:]
