"""Score pairs of texts in the way of their model: by one number of a pair that it reads as a whole,
by the similarity of two embeddings, or by late interaction of the vectors of tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.pooling.encoding import Encoding
from headrace.frontend.pooling.pairs import check_limits, check_pairs, encode_pairs
from headrace.frontend.pooling.similarity import (
    late_interaction,
    rows_of,
    similarity_of,
    vector_of,
)
from headrace.frontend.pooling.start_encoding import start_encoding
from headrace.frontend.pooling.texts import EncodeInput, encode_texts, pooling_of
from headrace.frontend.process.worker_thread import run_in_worker_thread
from headrace.frontend.schemas.pooling.scoring import ScoringFields
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.pooling import PoolingTask
from headrace.protocol.to_frontend import Pooled

# Tasks by which a model can score pairs, the best first.
_WAYS: tuple[PoolingTask, ...] = ("score", "embed", "token_embed")
_MANY_BYTES = 128 * 1024  # of vectors that are compared off the event loop

# The prompts before queries and documents, by the names that authors give them.
QUERY_PROMPTS = ("query",)
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True, slots=True)
class Scoring:
    """Scores on their way. inputs: all texts that are run."""

    model: ServedModel
    inputs: Sequence[EncodeInput]
    encoding: Encoding
    scores_of: Callable[[Sequence[Pooled]], list[float]]

    async def collect(self) -> list[float]:
        """Return the score of each pair. Raises ApiError or PoolError if one of them fails."""
        found = await self.encoding.collect()
        is_long = sum(len(each.data) for each in found) > _MANY_BYTES
        return await run_in_worker_thread(lambda: self.scores_of(found), is_long)


async def start_scoring(context: Context, request: ScoringFields) -> Scoring:
    """Submit the texts of a request for scores.

    Raises BadRequest, naming the field; TaskUnsupported if the model can score in no way.
    """
    model = context.model(request.model, *_WAYS)
    check_pairs(request)
    check_limits(request, model)
    task = next(way for way in _WAYS if way in model.tasks)
    if task == "score":
        inputs: Sequence[EncodeInput] = await encode_pairs(request, model)
        scores_of: Callable[[Sequence[Pooled]], list[float]] = _own_scores
    else:
        inputs = await _texts(request, model)
        compare = _compare_tokens if task == "token_embed" else partial(_compare_vectors, model)
        scores_of = partial(_compared, len(request.firsts), compare)
    encoding = start_encoding(context, model, request, task, inputs)
    return Scoring(model, inputs, encoding, scores_of)


def prompt_of(model: ServedModel, names: Sequence[str]) -> str:
    """Return the model's prompt with the first of these names that it has; "" if it has none."""
    prompts = pooling_of(model).prompts
    return next((prompts[name] for name in names if name in prompts), "")


def _own_scores(found: Sequence[Pooled]) -> list[float]:
    return [vector_of(each)[0] for each in found]


def _compared(
    count: int, compare: Callable[[Pooled, Sequence[Pooled]], list[float]], found: Sequence[Pooled]
) -> list[float]:
    """Compare the first `count` texts, one or as many as there are others, with the others."""
    firsts, seconds = found[:count], found[count:]
    if count == 1:
        return compare(firsts[0], seconds)
    return [compare(first, [second])[0] for first, second in zip(firsts, seconds, strict=True)]


def _compare_vectors(model: ServedModel, first: Pooled, seconds: Sequence[Pooled]) -> list[float]:
    similarity, vector = similarity_of(pooling_of(model).similarity), vector_of(first)
    return [similarity(vector, vector_of(second)) for second in seconds]


def _compare_tokens(first: Pooled, seconds: Sequence[Pooled]) -> list[float]:
    rows = rows_of(first)
    return [late_interaction(rows, rows_of(second)) for second in seconds]


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
        inputs += await encode_texts(
            cut, model, texts, add_special_tokens=True, prompt=prompt, field=field
        )
    return inputs


async def _cut(request: ScoringFields, tokenizer: ModelTokenizer, limit: int, prompt: str) -> _Cut:
    """Return how to shorten texts to a limit, which counts neither special tokens nor prompts."""
    keep = request.truncate_prompt_tokens
    if limit:
        longest = tokenizer.info.max_model_len
        around = sum(map(len, tokenizer.special_around))
        before = len(await tokenizer.encode(prompt, add_special_tokens=False)) if prompt else 0
        most = longest if keep in (None, -1) else keep
        keep = min(most or longest, limit + around + before)
    return _Cut(keep, request.truncation_side)
