"""Score pairs of texts in the way of their model: by one number of a pair that it reads as a whole,
by the similarity of two embeddings, or by late interaction of the vectors of tokens."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.pooling.encoding import Encoding
from headrace.frontend.pooling.late_interaction import score_late
from headrace.frontend.pooling.pairs import check_limits, check_pairs, encode_pairs
from headrace.frontend.pooling.similarity import Similarity, similarity_of, vector_of
from headrace.frontend.pooling.start_encoding import start_encoding
from headrace.frontend.pooling.texts import EncodeInput, encode_texts, pooling_of, with_route
from headrace.frontend.process.worker_thread import run_in_worker_thread
from headrace.frontend.schemas.pooling.scoring import ScoringFields
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.pooling import PoolingTask
from headrace.protocol.to_frontend import Pooled

# Tasks by which a model can score pairs, the best first.
_WAYS: tuple[PoolingTask, ...] = ("score", "embed", "token_embed")
_MANY_BYTES = 128 * 1024  # of vectors that are compared off the event loop

# The prompts before queries and documents, by the names that authors give them.
QUERY_PROMPTS = ("query", "search_query", "retrieval.query")
DOCUMENT_PROMPTS = ("document", "passage", "corpus", "search_document", "retrieval.passage")


@dataclass(frozen=True, slots=True)
class Scoring:
    """Scores on their way.

    inputs: all texts that are run. collect: returns the score of each pair; raises ApiError or
        PoolError if one of them fails.
    """

    model: ServedModel
    inputs: Sequence[EncodeInput]
    collect: Callable[[], Awaitable[list[float]]]


async def start_scoring(context: Context, request: ScoringFields) -> Scoring:
    """Submit the texts of a request for scores.

    Raises BadRequest, naming the field; TaskUnsupported if the model can score in no way.
    """
    model = context.model(request.model, *_WAYS)
    check_pairs(request)
    check_limits(request, model)
    if "score" in model.tasks:
        pairs = await encode_pairs(request, model)
        encoding = start_encoding(context, model, request, "score", pairs)
        return Scoring(model, pairs, partial(_collect, encoding, _own_scores))
    inputs = await _texts(request, model)
    count = len(request.firsts)
    if "embed" not in model.tasks:
        run = partial(score_late, context, model, request, inputs[:count], inputs[count:])
        return Scoring(model, inputs, run)
    compare = partial(_compared, count, similarity_of(pooling_of(model).similarity))
    encoding = start_encoding(context, model, request, "embed", inputs)
    return Scoring(model, inputs, partial(_collect, encoding, compare))


async def _collect(
    encoding: Encoding, scores_of: Callable[[Sequence[Pooled]], list[float]]
) -> list[float]:
    found = await encoding.collect()
    is_long = sum(len(each.data) for each in found) > _MANY_BYTES
    return await run_in_worker_thread(lambda: scores_of(found), is_long)


def prompt_of(model: ServedModel, names: Sequence[str]) -> str:
    """Return the model's prompt with the first of these names that it has; "" if it has none."""
    prompts = pooling_of(model).prompts
    return next((prompts[name] for name in names if name in prompts), "")


def _own_scores(found: Sequence[Pooled]) -> list[float]:
    return [vector_of(each)[0] for each in found]


def _compared(count: int, similarity: Similarity, found: Sequence[Pooled]) -> list[float]:
    """Compare the first `count` texts, one or as many as there are others, with the others."""
    vectors = [vector_of(each) for each in found]
    firsts, seconds = vectors[:count], vectors[count:]
    return [
        similarity(firsts[index if count > 1 else 0], second)
        for index, second in enumerate(seconds)
    ]


@dataclass(frozen=True, slots=True)
class _Cut:
    """How texts of one side of the pairs are shortened."""

    truncate_prompt_tokens: int | None
    truncation_side: Literal["left", "right"] | None


async def _texts(request: ScoringFields, model: ServedModel) -> list[EncodeInput]:
    """Return the tokens of all first texts, then of all second ones."""
    inputs: list[EncodeInput] = []
    for texts, limit, names, field in (
        (request.firsts, request.max_tokens_per_query, QUERY_PROMPTS, request.first_field),
        (request.seconds, request.max_tokens_per_doc, DOCUMENT_PROMPTS, request.second_field),
    ):
        prompt = prompt_of(model, names)
        cut = await _cut(request, model.tokenizer, limit, prompt)
        encoded = await encode_texts(
            cut, model, texts, add_special_tokens=True, prompt=prompt, field=field
        )
        inputs += with_route(encoded, model, names)
    return inputs


async def _cut(request: ScoringFields, tokenizer: ModelTokenizer, limit: int, prompt: str) -> _Cut:
    """Return how to shorten texts to a limit, which counts neither special tokens nor prompts."""
    keep = request.truncate_prompt_tokens
    if limit:
        longest = tokenizer.info.max_model_len
        around = sum(map(len, tokenizer.special_around))
        before = len(await tokenizer.encode(prompt, add_special_tokens=False)) if prompt else 0
        most = longest if keep in (None, -1) else keep
        if limit + around + before < (most or longest):
            return _Cut(limit + around + before, "right")  # the limit of a side keeps beginnings
    return _Cut(keep, request.truncation_side)
