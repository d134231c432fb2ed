"""The constraints of a request on single tokens, for its sampling parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.frontend.context import ServedModel
from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.prompts import check_vocabulary
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.sampling import RepetitionRule, SamplingParams


@dataclass(frozen=True, slots=True)
class TokenConstraints:
    """A request's constraints on single tokens, for all of its prompts."""

    biases: dict[int, float]
    allowed_token_ids: tuple[int, ...]
    bad_words: tuple[tuple[int, ...], ...]
    logprob_token_ids: tuple[int, ...]
    repetition_detection: RepetitionRule | None

    @classmethod
    async def resolve(cls, request: GenerationRequest, model: ServedModel) -> "TokenConstraints":
        """Resolve a request's fields.

        Raises BadRequest, naming the field, if one does not fit the model.
        """
        logprob_ids = tuple(request.logprob_token_ids or ())
        allowed = tuple(set(request.allowed_token_ids or ()))
        check_vocabulary(tuple(request.logit_bias), model.tokenizer, "logit_bias")
        check_vocabulary(allowed, model.tokenizer, "allowed_token_ids")
        check_vocabulary(logprob_ids, model.tokenizer, "logprob_token_ids")
        words = await bad_words(request.bad_words, model.tokenizer)
        return cls(request.logit_bias, allowed, words, logprob_ids, _repetition(request))

    def apply(
        self, sampling: SamplingParams, request: GenerationRequest, model: ServedModel
    ) -> SamplingParams:
        """Return the sampling parameters with these constraints.

        Raises BadRequest if fields exclude each other or exceed the operator's limits.
        """
        sampling = _resolve_counts(sampling, request, model)
        if self.logprob_token_ids and sampling.logprobs is None:
            raise BadRequest("logprob_token_ids needs logprobs.", "logprob_token_ids")
        return replace(
            sampling,
            biased_token_ids=tuple(self.biases),
            biases=tuple(self.biases.values()),
            allowed_token_ids=self.allowed_token_ids,
            bad_words=self.bad_words,
            logprob_token_ids=self.logprob_token_ids,
            repetition_detection=self.repetition_detection,
        )


def _resolve_counts(
    sampling: SamplingParams, request: GenerationRequest, model: ServedModel
) -> SamplingParams:
    """Replace a count of -1 log probabilities, which stands for all tokens, by the actual count."""
    vocab_size, limit = model.tokenizer.info.vocab_size, model.group.serving.max_logprobs
    limit = vocab_size if limit == -1 else limit

    def resolve(count: int | None, field: str) -> int | None:
        count = vocab_size if count == -1 else count
        if count is not None and count > limit:
            raise BadRequest(f"{field} must be at most {limit}.", field)
        return count

    return replace(
        sampling,
        logprobs=resolve(sampling.logprobs, request.logprobs_field),
        prompt_logprobs=resolve(sampling.prompt_logprobs, "prompt_logprobs"),
    )


async def bad_words(words: Sequence[str], tokenizer: ModelTokenizer) -> tuple[tuple[int, ...], ...]:
    """Return the tokens of each word, at the beginning of a text and after a space."""
    if not words:
        return ()
    stripped = [word.lstrip() for word in words]
    if not all(stripped):
        raise BadRequest("bad_words must not hold words that are only white space.", "bad_words")
    spellings = [prefix + word for word in stripped for prefix in ("", " ")]
    encoded = await tokenizer.encode_all(spellings, add_special_tokens=False)
    return tuple(dict.fromkeys(tuple(token_ids) for token_ids in encoded if token_ids))


def _repetition(request: GenerationRequest) -> RepetitionRule | None:
    requested = request.repetition_detection
    if requested is None or requested.max_pattern_size == 0:
        return None
    min_size = max(1, requested.min_pattern_size)
    return RepetitionRule(min_size, requested.max_pattern_size, requested.min_count)
