"""Puts a request to the pool: one stream for each text that it asks for."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.errors import BadRequest, Stopping
from headrace.frontend.generation.beam_search import BeamSearch, BeamStream
from headrace.frontend.generation.choice import Choice
from headrace.frontend.generation.stream_interval import StreamInterval
from headrace.frontend.generation.request_log import RequestLog
from headrace.frontend.generation.generation import Generation
from headrace.frontend.generation.sampling import choice_seed
from headrace.frontend.metrics import LongestOutput
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.deadline import current_deadline
from headrace.frontend.pool.interface import OutputStream
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.frontend.text.stop_strings import StopMatcher
from headrace.protocol.grammar import Grammar
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate

# Texts that one request may ask for, over all its prompts.
MAX_TEXTS = 1024
MAX_BEAMS = 32
# Tokens that biases and allowed tokens may name, over all texts: each text's worker gets them all.
MAX_NAMED_TOKENS = 4_000_000
# Characters of bad words, likewise. Each is some tokens, twice.
MAX_BAD_CHARS = 1_000_000

# Fields that would change which tokens come next, or what is told of them.
NOT_WITH_BEAMS = (
    "allowed_token_ids",
    "bad_words",
    "logit_bias",
    "logprob_token_ids",
    "min_tokens",
    "repetition_detection",
    "structured_outputs",
)

Cleanups = list[Callable[[], None]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the workers get it. text: as the client wrote it or the template made it; None
    if it came as token ids."""

    token_ids: tuple[int, ...]
    text: str | None


def check_choice_count(request: GenerationRequest, prompts: int) -> None:
    """BadRequest if a request asks for more texts than it may; before anything is made for them."""
    if prompts * request.choices_per_prompt > MAX_TEXTS:
        raise BadRequest(f"A request may ask for {MAX_TEXTS} texts at most (prompts times n).", "n")


def start_generation(
    context: Context,
    model: ServedModel,
    request: GenerationRequest,
    prompts: Sequence[Prompt],
    samplings: Sequence[SamplingParams],
    *,
    discard: bool = False,
    kept_tokens: frozenset[int] = frozenset(),
    grammar: Grammar | None = None,
    cleanups: Cleanups | None = None,
    deadline: float | None = None,
) -> Generation:
    """The generation of all texts; samplings: one for each prompt. discard: only the prompts are to
    be run. kept_tokens: special tokens that texts show in any case. grammar: what the texts must
    conform to.

    BadRequest if the request wants beam search and something that this does not have.

    cleanups: of its owner, who calls them in the end; they close it. Without them the HTTP request
    owns it, closes it when it ends, in whatever way, and has a deadline of its own.
    """
    scope = request_scope.current_or_none()
    _check_wanted(scope)
    check_token_lists(request, len(prompts))
    by_beams = bool(request.use_beam_search) and not discard
    if by_beams:
        check_beams(request)
        if grammar is not None:
            raise BadRequest(
                "use_beam_search cannot be combined with structured outputs.", "use_beam_search"
            )
    choices: list[Choice] = []
    streams: list[OutputStream] = []
    for place, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
        message = _message(model, request, prompt, sampling, grammar)
        messages = [_seeded(message, number) for number in range(request.choices_per_prompt)]
        if by_beams:
            streams += _beams(context, model, request, message)
        else:
            streams += [context.pool.generate(model.group.name, each) for each in messages]
        longest = context.metrics.longest_output(
            model.group.served_names[0], request.choices_per_prompt
        )
        for each in messages:
            index = len(choices)
            choices.append(
                _choice(context, model, request, index, place, each, discard, longest, kept_tokens)
            )
    if cleanups is None:
        deadline = current_deadline(context.config.request_timeout_s)
    generation = Generation(choices, streams, _interval(request), deadline)
    if context.config.enable_log_requests:
        generation.log = RequestLog(context.config, prompts, samplings)
    owned_by = request_scope.current().cleanups if cleanups is None else cleanups
    owned_by += [
        generation.close,
        context.drain.watch(partial(generation.interrupt, Stopping())),
        context.abortable.watch(scope, model.group.name, generation.interrupt),
    ]
    return generation


def _check_wanted(scope: request_scope.RequestScope | None) -> None:
    """Raise what an operator has ended the request with while its prompt was read."""
    if scope is not None and scope.interruption is not None:
        raise scope.interruption


def check_token_lists(request: GenerationRequest, prompts: int) -> None:
    """BadRequest if more tokens are named than may be, over the texts of so many prompts."""
    texts = prompts * request.choices_per_prompt
    if texts * sum(map(len, request.bad_words)) > MAX_BAD_CHARS:
        raise BadRequest(f"bad_words: too many words for {texts} texts.", "bad_words")
    for field in ("allowed_token_ids", "logit_bias"):
        if texts * len(getattr(request, field) or ()) > MAX_NAMED_TOKENS:
            raise BadRequest(f"{field}: too many tokens for {texts} texts.", field)


def check_beams(request: GenerationRequest) -> None:
    """BadRequest for what texts found by beam search cannot have."""
    if request.stream:
        raise BadRequest("use_beam_search cannot be streamed.", "use_beam_search")
    if request.choices_per_prompt > MAX_BEAMS:
        raise BadRequest(f"n must be at most {MAX_BEAMS} with use_beam_search.", "n")
    refused = [field for field in NOT_WITH_BEAMS if getattr(request, field)]
    if request.thinking_token_budget not in (None, -1):
        refused.append("thinking_token_budget")
    for field in refused:
        raise BadRequest(f"{field} cannot be combined with use_beam_search.", field)


def _beams(
    context: Context, model: ServedModel, request: GenerationRequest, message: Generate
) -> list[BeamStream]:
    penalty = 1.0 if request.length_penalty is None else request.length_penalty
    generate = partial(context.pool.generate, model.group.name)
    search = BeamSearch(message, request.choices_per_prompt, penalty, generate, _new_id)
    return search.streams()


def _new_id() -> str:
    return secrets.token_hex(12)


def _interval(request: GenerationRequest) -> StreamInterval | None:
    tokens = request.stream_interval or 1
    return StreamInterval(tokens) if request.stream and tokens > 1 else None


def _message(
    model: ServedModel,
    request: GenerationRequest,
    prompt: Prompt,
    sampling: SamplingParams,
    grammar: Grammar | None,
) -> Generate:
    return Generate(
        request_id=_new_id(),
        prompt_token_ids=prompt.token_ids,
        sampling=sampling,
        priority=request.priority,
        cache_salt=request.cache_salt or "",
        adapter=model.adapter,
        tenant=request.user or "",
        grammar=grammar,
    )


def _seeded(message: Generate, number: int) -> Generate:
    """The request for one of a prompt's choices."""
    seed = choice_seed(message.sampling.seed, number)
    sampling = replace(message.sampling, seed=seed)
    return replace(message, request_id=_new_id(), sampling=sampling)


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
        model.group.served_names[0],
        len(message.prompt_token_ids),
        request.choices_per_prompt,
        message.sampling.max_tokens,
        longest,
        message.tenant,
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
