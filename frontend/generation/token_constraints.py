"""What a request says of single tokens, in its sampling parameters."""

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
    """What a request says of tokens, for all of its prompts."""

    biases: dict[int, float]
    allowed_token_ids: tuple[int, ...]
    bad_words: tuple[tuple[int, ...], ...]
    logprob_token_ids: tuple[int, ...]
    repetition_detection: RepetitionRule | None

    @classmethod
    async def of(cls, request: GenerationRequest, model: ServedModel) -> "Constraints":
        """BadRequest, naming the field, for what does not fit the model."""
        named = tuple(request.logprob_token_ids or ())
        allowed = tuple(set(request.allowed_token_ids or ()))
        check_vocabulary(tuple(request.logit_bias), model.text, "logit_bias")
        check_vocabulary(allowed, model.text, "allowed_token_ids")
        check_vocabulary(named, model.text, "logprob_token_ids")
        words = await bad_words(request.bad_words, model.text)
        return cls(request.logit_bias, allowed, words, named, _repetition(request))

    def apply(
        self, sampling: SamplingParams, request: GenerationRequest, model: ServedModel
    ) -> SamplingParams:
        """The parameters with these constraints. BadRequest for what does not fit together, or the
        operator's limits."""
        sampling = _counted(sampling, request, model)
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


def _counted(
    sampling: SamplingParams, request: GenerationRequest, model: ServedModel
) -> SamplingParams:
    """With counts of log probabilities that workers know: -1 stands for all tokens."""
    size, most = model.text.info.vocab_size, model.group.serving.max_logprobs
    most = size if most == -1 else most

    def counted(count: int | None, field: str) -> int | None:
        count = size if count == -1 else count
        if count is not None and count > most:
            raise BadRequest(f"{field} must be at most {most}.", field)
        return count

    return replace(
        sampling,
        logprobs=counted(sampling.logprobs, request.logprobs_field),
        prompt_logprobs=counted(sampling.prompt_logprobs, "prompt_logprobs"),
    )


async def bad_words(words: Sequence[str], text: ModelTokenizer) -> tuple[tuple[int, ...], ...]:
    """The tokens of each word, as it stands at a text's start and after a space."""
    if not words:
        return ()
    stripped = [word.lstrip() for word in words]
    if not all(stripped):
        raise BadRequest("bad_words must not hold words of spaces alone.", "bad_words")
    spellings = [prefix + word for word in stripped for prefix in ("", " ")]
    encoded = await text.encode_all(spellings, add_special_tokens=False)
    return tuple(dict.fromkeys(tuple(token_ids) for token_ids in encoded if token_ids))


def _repetition(request: GenerationRequest) -> RepetitionRule | None:
    asked = request.repetition_detection
    if asked is None or asked.max_pattern_size == 0:
        return None
    least = max(1, asked.min_pattern_size)
    return RepetitionRule(least, asked.max_pattern_size, asked.min_count)
