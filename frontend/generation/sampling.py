"""Derive a request's sampling parameters: its own, else the model's, else the field's default."""

import hashlib
from dataclasses import dataclass

from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.seeds import Seeds
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.protocol.sampling import SamplingParams, ThinkingBudget
from headrace.protocol.text import TextInfo

# Below this temperature, sampling always picks the largest logit.
MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class OutputLimit:
    """The limit on a request's output.

    requested: tokens at most, as the request sets it, up to the rest of the context; None if it
        does not.
    field: the field that sets it.
    fallback: the limit for a request without one, as far as the context allows; None: the model's
        default, else the rest of the context.
    """

    requested: int | None
    field: str
    fallback: int | None = None


def sampling_params(
    request: GenerationRequest,
    info: TextInfo,
    seeds: Seeds,
    *,
    prompt_tokens: int,
    limit: OutputLimit,
    logprobs: int | None,
    prompt_logprobs: int | None,
    thinking_budget: ThinkingBudget | None = None,
) -> SamplingParams:
    """Return the sampling parameters of the first choice.

    Raises BadRequest if the fields exclude each other or exceed the model's limits.
    """
    max_tokens = _max_tokens(info, prompt_tokens, limit)
    temperature = _temperature(request, info)
    if temperature == 0 and request.choices_per_prompt > 1 and not request.use_beam_search:
        raise BadRequest("n must be 1 when the temperature is 0: all choices would be equal.")
    if request.min_tokens > max_tokens:
        raise BadRequest(
            f"min_tokens is {request.min_tokens}, more than max_tokens, which is {max_tokens}.",
            "min_tokens",
        )
    if any(token_id >= info.vocab_size for token_id in request.stop_token_ids):
        raise BadRequest(
            f"stop_token_ids must be below the vocabulary's size, {info.vocab_size}.",
            "stop_token_ids",
        )
    return SamplingParams(
        seed=seeds.next() if request.seed is None else request.seed % 2**63,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=_or_default(request.top_p, info, "top_p", 1.0),
        top_k=max(0, int(_or_default(request.top_k, info, "top_k", 0))),
        min_p=_or_default(request.min_p, info, "min_p", 0.0),
        repetition_penalty=_or_default(request.repetition_penalty, info, "repetition_penalty", 1.0),
        presence_penalty=_or_default(request.presence_penalty, info, "presence_penalty", 0.0),
        frequency_penalty=_or_default(request.frequency_penalty, info, "frequency_penalty", 0.0),
        eos_token_ids=() if request.ignore_eos else info.eos_token_ids,
        stop_token_ids=tuple(request.stop_token_ids),
        min_tokens=request.min_tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        thinking_budget=thinking_budget,
    )


def choice_seed(seed: int, choice: int) -> int:
    """Return the seed of one of a prompt's choices, of 63 bits.

    The first choice has the request's own seed, so that asking for more choices does not change it.
    """
    if choice == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _temperature(request: GenerationRequest, info: TextInfo) -> float:
    temperature = _or_default(request.temperature, info, "temperature", 1.0)
    return 0.0 if temperature < MIN_TEMPERATURE else temperature


def _or_default(value: float | None, info: TextInfo, name: str, default: float) -> float:
    if value is not None:
        return float(value)
    return float(info.generation_defaults.get(name, default))


def _max_tokens(info: TextInfo, prompt_tokens: int, limit: OutputLimit) -> int:
    available = info.max_model_len - prompt_tokens  # at least 1, see generation.prompts
    requested = limit.requested
    if requested is None:
        requested = limit.fallback or _default_length(info)
    elif requested > info.max_model_len:
        raise BadRequest(
            f"{limit.field} is {requested}, more than the context of {info.max_model_len} tokens.",
            limit.field,
        )
    bounds = [bound for bound in (requested, info.max_output_tokens) if bound is not None]
    return max(1, min([available, *bounds]))


def _default_length(info: TextInfo) -> int | None:
    length = info.generation_defaults.get("max_new_tokens")
    return None if length is None else int(length)
