"""POST /v1/completions."""

from collections.abc import Sequence

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.chat.reasoning.plan import check_thinking_budget, plan_completion_reasoning
from headrace.frontend.context import Context, ServedModel
from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.operator_defaults import apply_operator_defaults
from headrace.frontend.generation.prompts import completion_prompts, encoding_scope
from headrace.frontend.generation.sampling import OutputLimit, sampling_params
from headrace.frontend.generation.start_generation import (
    Prompt,
    check_choice_count,
    check_token_lists,
    start_generation,
)
from headrace.frontend.generation.token_constraints import TokenConstraints
from headrace.frontend.http.parsing import read_body
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.openai_api.common import response_head
from headrace.frontend.openai_api.completion_serializer import CompletionSerializer
from headrace.frontend.openai_api.logprobs import TokenNames
from headrace.frontend.openai_api.serialize import check_stream, respond
from headrace.frontend.schemas.completion import CompletionRequest
from headrace.frontend.schemas.response_bodies import Completion, ErrorAnswer
from headrace.frontend.structured.request_grammar import requested_grammar
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.sampling import SamplingParams, ThinkingBudget

DEFAULT_MAX_TOKENS = 16


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("completions", __name__)

    @routes.post("/v1/completions")
    @document_request(CompletionRequest)
    @document_response(Completion)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def completions() -> Response:
        """Continue prompts, in one piece or as a stream of events."""
        count_in_flight(context)
        return await answer(context, await read_body(CompletionRequest))

    return routes


async def answer(context: Context, asked: CompletionRequest) -> Response:
    """Continue prompts."""
    model = context.model(asked.model, "generate")
    request = apply_operator_defaults(asked, model)
    _check(request)
    check_thinking_budget(request, model.reasoning)
    scope = encoding_scope(request, model)
    prompts = await completion_prompts(request, model.tokenizer, scope)
    constraints = await TokenConstraints.resolve(request, model)
    samplings = [
        constraints.apply(
            _sampling(request, model, len(prompt.token_ids), await _budget(request, model, prompt)),
            request,
            model,
        )
        for prompt in prompts
    ]
    names = TokenNames(model.tokenizer, bool(request.return_tokens_as_token_ids))
    discard = request.max_tokens == 0
    echoes = await _echoes(request, model.tokenizer, prompts)
    grammar = await requested_grammar(context, model, request)
    generation = start_generation(
        context, model, request, prompts, samplings, discard=discard, grammar=grammar
    )
    answer = CompletionSerializer(
        response_head(request, model, "cmpl"), request, prompts, names, echoes
    )
    return await respond(
        request,
        generation,
        answer,
        in_thread=request.has_logprobs,
        keep_alive_s=context.config.sse_keep_alive_interval_s,
    )


def _check(request: CompletionRequest) -> None:
    """Check combinations of fields. Raises BadRequest if they contradict each other."""
    check_choice_count(request, len(request.prompts))
    check_token_lists(request, len(request.prompts))  # before each prompt gets a copy of the lists
    if request.best_of not in (None, request.choices_per_prompt):
        raise BadRequest("best_of is not supported unless it equals n.", "best_of")
    if request.max_tokens == 0 and not request.echo:
        raise BadRequest("max_tokens must be at least 1 without echo.", "max_tokens")
    check_stream(request)


async def _budget(
    request: CompletionRequest, model: ServedModel, prompt: Prompt
) -> ThinkingBudget | None:
    if model.reasoning is None or request.thinking_token_budget is None:
        return None
    is_cut = request.truncate_prompt_tokens is not None
    thinking = await plan_completion_reasoning(model.tokenizer, model.reasoning, prompt, is_cut)
    return thinking.budget(request.thinking_token_budget)


def _sampling(
    request: CompletionRequest,
    model: ServedModel,
    prompt_tokens: int,
    budget: ThinkingBudget | None,
) -> SamplingParams:
    prompt_logprobs = request.prompt_logprobs
    if prompt_logprobs is None and request.echo:
        prompt_logprobs = request.logprobs
    return sampling_params(
        request,
        model.tokenizer.info,
        model.seeds,
        prompt_tokens=prompt_tokens,
        limit=OutputLimit(request.max_tokens, "max_tokens", DEFAULT_MAX_TOKENS),
        logprobs=request.logprobs,
        prompt_logprobs=prompt_logprobs,
        thinking_budget=budget,
    )


async def _echoes(
    request: CompletionRequest, tokenizer: ModelTokenizer, prompts: Sequence[Prompt]
) -> list[str]:
    """Return the text that the completions of each prompt begin with.

    Token ids are shown with their special tokens, as the same prompt in text would be.
    """
    if not request.echo:
        return [""] * len(prompts)
    return [
        await tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
        if prompt.text is None
        else prompt.text
        for prompt in prompts
    ]
