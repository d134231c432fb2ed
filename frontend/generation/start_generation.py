"""Submit a request to the pool: one stream for each of its choices."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.beam_search import BeamSearch, BeamStream
from headrace.frontend.generation.choice import Choice
from headrace.frontend.generation.generation import Generation
from headrace.frontend.generation.ownership import Cleanups as Cleanups
from headrace.frontend.generation.ownership import (
    new_request_id,
    own,
    owner_of,
    priority_of,
    raise_interruption,
)
from headrace.frontend.generation.request_log import RequestLog
from headrace.frontend.generation.request_times import RequestTimes
from headrace.frontend.generation.sampling import choice_seed
from headrace.frontend.generation.stream_interval import StreamInterval
from headrace.frontend.generation.token_ledger import TokenLedger, reserve_tokens
from headrace.frontend.metrics import LongestOutput, RequestObserver
from headrace.frontend.middleware.deadline import current_deadline
from headrace.frontend.pool.interface import OutputStream
from headrace.frontend.principal import Principal
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.frontend.schemas.limits import limit_of
from headrace.frontend.text.stop_strings import StopMatcher
from headrace.protocol.grammar import Grammar
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate

# Tokens in logit_bias or allowed_token_ids, over all choices: the worker of each choice gets all.
MAX_LISTED_TOKENS = 4_000_000
# Characters of bad words, over all choices. Each word is some tokens, twice.
MAX_BAD_WORD_CHARS = 1_000_000

# Fields that would change which tokens come next, or their log probabilities.
EXCLUDED_BY_BEAM_SEARCH = (
    "allowed_token_ids",
    "bad_words",
    "logit_bias",
    "logprob_token_ids",
    "min_tokens",
    "repetition_detection",
    "structured_outputs",
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the workers get it.

    text: as the client wrote it or the template rendered it; None if it came as token ids.
    """

    token_ids: tuple[int, ...]
    text: str | None


def check_choice_count(request: GenerationRequest, prompts: int = 1, field: str = "n") -> None:
    """Raise BadRequest if a request has too many choices; call it before any work for them.

    field: what there may be too many of.
    """
    most = limit_of("max_choices")
    if prompts * request.choices_per_prompt > most:
        text = f"{field}: a request may have at most {most} choices (prompts times n)."
        raise BadRequest(text, field)


def start_generation(
    context: Context,
    model: ServedModel,
    request: GenerationRequest,
    prompts: Sequence[Prompt],
    samplings: Sequence[SamplingParams],
    *,
    discard: bool = False,
    visible_token_ids: frozenset[int] = frozenset(),
    grammar: Grammar | None = None,
    cleanups: Cleanups | None = None,
    deadline: float | None = None,
) -> Generation:
    """Submit a request and return the generation of all its choices.

    samplings: one for each prompt.
    discard: whether only the prompts must be run, without output.
    visible_token_ids: special tokens that outputs show in any case.
    grammar: what the outputs must conform to.
    cleanups: the owner's list of callbacks, which close the generation; the owner must call them in
        the end. None: the HTTP request owns the generation, closes it when it ends, and sets the
        deadline.
    deadline: see Generation; for an owner other than the HTTP request.

    Raises BadRequest if the request combines beam search with a field that it excludes.
    """
    raise_interruption()
    check_token_lists(request, len(prompts))
    principal = context.principal
    uses_beam_search = bool(request.use_beam_search) and not discard
    if uses_beam_search:
        _check_beam_search(request, grammar)
    ledger = TokenLedger([len(prompt.token_ids) for prompt in prompts], uses_beam_search)
    outputs = [sampling.max_tokens for sampling in samplings]
    context_size = model.tokenizer.info.max_model_len
    demand = ledger.demand(outputs, request.choices_per_prompt, context_size, discard=discard)
    reservation = reserve_tokens(context, demand, ledger.used)
    choices, streams = _choices_and_streams(
        context,
        model,
        request,
        [
            _make_message(principal, model, request, prompt, sampling, grammar)
            for prompt, sampling in zip(prompts, samplings, strict=True)
        ],
        uses_beam_search=uses_beam_search,
        discard=discard,
        visible_token_ids=visible_token_ids,
    )
    if cleanups is None:
        deadline = current_deadline(context.config.request_timeout_s)
    ledger.choices = choices
    generation = Generation(choices, streams, _stream_interval(request, model), deadline)
    if context.config.enable_log_requests:
        generation.log = RequestLog(context.config, prompts, samplings)
    own(context, model, generation, reservation, cleanups)
    return generation


def _choices_and_streams(
    context: Context,
    model: ServedModel,
    request: GenerationRequest,
    messages: Sequence[Generate],
    *,
    uses_beam_search: bool,
    discard: bool,
    visible_token_ids: frozenset[int],
) -> tuple[list[Choice], list[OutputStream]]:
    """Submit each prompt's message to the pool, once for each of its choices."""
    choices: list[Choice] = []
    streams: list[OutputStream] = []
    for prompt_index, message in enumerate(messages):
        choice_messages = [_with_choice_seed(message, n) for n in range(request.choices_per_prompt)]
        if uses_beam_search:
            streams += _beam_streams(context, model, request, message)
        else:
            streams += [
                context.pool.generate(model.group.name, choice_message)
                for choice_message in choice_messages
            ]
        is_timed = model.group.serving.enable_per_request_metrics
        for observer in _observers(context, model, request, choice_messages):
            choices.append(
                Choice(
                    len(choices),
                    prompt_index,
                    model.tokenizer.detokenizer(
                        request.skip_special_tokens, message.prompt_token_ids, visible_token_ids
                    ),
                    StopMatcher(tuple(request.stop), request.include_stop_str_in_output),
                    observer,
                    min_tokens=request.min_tokens,
                    include_stop=request.include_stop_str_in_output,
                    discard=discard,
                    times=RequestTimes() if is_timed else None,
                )
            )
    return choices, streams


def check_token_lists(request: GenerationRequest, prompts: int) -> None:
    """Raise BadRequest if the request lists too many tokens or words over all its choices.

    prompts: how many prompts the request has.
    """
    num_choices = prompts * request.choices_per_prompt
    if num_choices * sum(map(len, request.bad_words)) > MAX_BAD_WORD_CHARS:
        raise BadRequest(f"bad_words: too many words for {num_choices} choices.", "bad_words")
    for field in ("allowed_token_ids", "logit_bias"):
        if num_choices * len(getattr(request, field) or ()) > MAX_LISTED_TOKENS:
            raise BadRequest(f"{field}: too many tokens for {num_choices} choices.", field)


def _check_beam_search(request: GenerationRequest, grammar: Grammar | None) -> None:
    """Raise BadRequest for fields that beam search excludes."""
    if request.stream:
        raise BadRequest("use_beam_search cannot be streamed.", "use_beam_search")
    if request.choices_per_prompt > limit_of("max_beams"):
        most = limit_of("max_beams")
        raise BadRequest(f"n: must be at most {most} with use_beam_search.", "n")
    excluded = [field for field in EXCLUDED_BY_BEAM_SEARCH if getattr(request, field)]
    if request.thinking_token_budget not in (None, -1):
        excluded.append("thinking_token_budget")
    for field in excluded:
        raise BadRequest(f"{field} cannot be combined with use_beam_search.", field)
    if grammar is not None:
        raise BadRequest(
            "use_beam_search cannot be combined with structured outputs.", "use_beam_search"
        )


def _beam_streams(
    context: Context, model: ServedModel, request: GenerationRequest, message: Generate
) -> list[BeamStream]:
    penalty = 1.0 if request.length_penalty is None else request.length_penalty
    generate = partial(context.pool.generate, model.group.name)
    search = BeamSearch(message, request.choices_per_prompt, penalty, generate, new_request_id)
    return search.streams()


def _stream_interval(request: GenerationRequest, model: ServedModel) -> StreamInterval | None:
    tokens = request.stream_interval or model.group.serving.stream_interval
    return StreamInterval(tokens) if request.stream and tokens > 1 else None


def _make_message(
    principal: Principal,
    model: ServedModel,
    request: GenerationRequest,
    prompt: Prompt,
    sampling: SamplingParams,
    grammar: Grammar | None,
) -> Generate:
    tenant, user = owner_of(principal, request.user)
    return Generate(
        request_id=new_request_id(),
        prompt_token_ids=prompt.token_ids,
        sampling=sampling,
        priority=priority_of(request.priority),
        cache_salt=model.salted(request.cache_salt),
        adapter=model.adapter,
        tenant=tenant,
        user=user,
        grammar=grammar,
    )


def _with_choice_seed(message: Generate, choice: int) -> Generate:
    """Return the message for one of a prompt's choices."""
    seed = choice_seed(message.sampling.seed, choice)
    sampling = replace(message.sampling, seed=seed)
    return replace(message, request_id=new_request_id(), sampling=sampling)


def _observers(
    context: Context, model: ServedModel, request: GenerationRequest, messages: Sequence[Generate]
) -> list[RequestObserver]:
    """Return the metrics observers of one prompt's choices."""
    name = model.group.served_names[0]
    longest = LongestOutput(request.choices_per_prompt)
    return [
        context.metrics.request(
            name,
            len(message.prompt_token_ids),
            request.choices_per_prompt,
            message.sampling.max_tokens,
            longest,
            message.tenant,
            named_by_client=context.principal.key is None,
        )
        for message in messages
    ]
