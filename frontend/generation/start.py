"""Puts a request to the pool: one stream for each text that it asks for."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from frontend.context import Context, ServedModel
from frontend.errors import BadRequest
from frontend.generation.choice import Choice
from frontend.generation.run import Generation
from frontend.generation.sampling import choice_seed
from frontend.metrics import LongestOutput
from frontend.middleware import request_scope
from frontend.pool.interface import OutputStream
from frontend.schemas.generation import GenerationRequest
from frontend.text.stops import StopMatcher
from protocol.sampling import SamplingParams
from protocol.to_worker import Generate

# Texts that one request may ask for, over all its prompts.
MAX_TEXTS = 1024


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the workers get it. text: as the client wrote it or the template made it; None
    if it came as token ids."""

    token_ids: tuple[int, ...]
    text: str | None


def check_texts(request: GenerationRequest, prompts: int) -> None:
    """BadRequest if a request asks for more texts than it may; before anything is made for them."""
    if prompts * request.choices_per_prompt > MAX_TEXTS:
        raise BadRequest(f"A request may ask for {MAX_TEXTS} texts at most (prompts times n).", "n")


def start(
    context: Context,
    model: ServedModel,
    request: GenerationRequest,
    prompts: Sequence[Prompt],
    samplings: Sequence[SamplingParams],
    *,
    discard: bool = False,
    kept_tokens: frozenset[int] = frozenset(),
) -> Generation:
    """The generation of all texts; samplings: one for each prompt. discard: only the prompts are to
    be run. kept_tokens: special tokens that texts show in any case.

    It is closed when the HTTP request ends, in whatever way.
    """
    choices: list[Choice] = []
    streams: list[OutputStream] = []
    for place, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
        longest = context.metrics.longest_output(model.name, request.choices_per_prompt)
        for number in range(request.choices_per_prompt):
            seeded = replace(sampling, seed=choice_seed(sampling.seed, number))
            message = _message(request, prompt, seeded)
            choice = _choice(
                context, model, request, len(choices), place, message, discard, longest, kept_tokens
            )
            choices.append(choice)
            streams.append(context.pool.generate(model.group.name, message))
    generation = Generation(choices, streams)
    request_scope.current().cleanups.append(generation.close)
    return generation


def _message(request: GenerationRequest, prompt: Prompt, sampling: SamplingParams) -> Generate:
    return Generate(
        request_id=secrets.token_hex(12),
        prompt_token_ids=prompt.token_ids,
        sampling=sampling,
        priority=request.priority,
        cache_salt=request.cache_salt or "",
        tenant=request.user or "",
    )


def _choice(
    context: Context,
    model: ServedModel,
    request: GenerationRequest,
    index: int,
    place: int,
    message: Generate,
    discard: bool,
    longest: LongestOutput,
    kept_tokens: frozenset[int],
) -> Choice:
    observer = context.metrics.request(
        model.name,
        len(message.prompt_token_ids),
        request.choices_per_prompt,
        message.sampling.max_tokens,
        longest,
    )
    return Choice(
        index,
        place,
        model.text.detokenizer(request.skip_special_tokens, message.prompt_token_ids, kept_tokens),
        StopMatcher(tuple(request.stop), request.include_stop_str_in_output),
        observer,
        min_tokens=request.min_tokens,
        include_stop=request.include_stop_str_in_output,
        discard=discard,
    )
