"""Start a chat: from its messages to the run that answers it.

All APIs that answer chats start here; they differ in how they serialize the answer.
"""

from collections.abc import Callable
from dataclasses import replace

from headrace.frontend.chat.chat_run import ChatRun
from headrace.frontend.chat.message import MessageReader
from headrace.frontend.chat.prompt import chat_prompt, template_variables
from headrace.frontend.chat.reasoning.plan import (
    ReasoningPlan,
    check_thinking_budget,
    plan_chat_reasoning,
)
from headrace.frontend.chat.tools.constraint import chat_constraint
from headrace.frontend.chat.tools.tool_use import ToolUse, at_strict_level, resolve_tools
from headrace.frontend.context import Context, ServedModel
from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.sampling import OutputLimit, sampling_params
from headrace.frontend.generation.start_generation import (
    Cleanups,
    Prompt,
    check_choice_count,
    start_generation,
)
from headrace.frontend.generation.token_constraints import TokenConstraints
from headrace.frontend.middleware import request_scope
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.structured.request_grammar import compile_constraint
from headrace.protocol.grammar import Grammar
from headrace.protocol.sampling import SamplingParams, ThinkingBudget


async def start_chat(
    context: Context,
    request: ChatCompletionRequest,
    *,
    cleanups: Cleanups | None = None,
    deadline: float | None = None,
) -> ChatRun:
    """Submit a chat to the pool. Raises ApiError if it cannot be run.

    cleanups, deadline: see `start_generation`.
    """
    model = context.model(request.model, "generate")
    check_choice_count(request)
    if request.top_logprobs and not request.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true.", "top_logprobs")
    check_thinking_budget(request, model.reasoning)
    tools = _tools(request, model)
    prompt = await chat_prompt(request, model, tools.template_tools)
    reasoning = await _reasoning(request, model, prompt, may_call=tools.mode == "auto")
    budget = None if reasoning is None else reasoning.budget(request.thinking_token_budget)
    constraints = await TokenConstraints.resolve(request, model)
    sampling = _sampling(request, model, len(prompt.token_ids), budget)
    sampling = constraints.apply(sampling, request, model)
    grammar = await _grammar(context, request, model, tools, reasoning)
    if reasoning is not None:
        reasoning = replace(reasoning, has_grammar=grammar is not None)
    generation = start_generation(
        context,
        model,
        request,
        [prompt],
        [sampling],
        visible_token_ids=_visible_token_ids(model, tools, reasoning),
        grammar=grammar,
        cleanups=cleanups,
        deadline=deadline,
    )
    readers = [_reader(request, reasoning, tools.reader()) for _ in generation.choices]
    on_parsed = _parsed_choice_counter(context, model, request)
    return ChatRun(model, request, prompt, generation, readers, reasoning, tools, on_parsed)


def _parsed_choice_counter(
    context: Context, model: ServedModel, request: ChatCompletionRequest
) -> Callable[[bool], None]:
    """Return what counts the outputs in which a parser looked for tool calls."""
    scope = request_scope.current_or_none()
    handler = "/v1/responses" if scope is None else scope.handler  # of a background response

    def count(has_calls: bool) -> None:
        context.metrics.count_parsed_choice(
            model.group.served_names[0],
            streams=bool(request.stream),
            has_calls=has_calls,
            handler=handler,
        )

    return count


async def _reasoning(
    request: ChatCompletionRequest, model: ServedModel, prompt: Prompt, *, may_call: bool
) -> ReasoningPlan | None:
    """Return how the answer's reasoning begins and ends; None if the model has no reasoning parser.

    may_call: whether the model may call a tool at any time, and so end its reasoning.
    """
    if model.reasoning is None:
        return None
    variables = template_variables(request, model)
    reasoning = await plan_chat_reasoning(
        request, model.tokenizer, model.reasoning, prompt, variables
    )
    return replace(reasoning, has_tools=may_call)


async def _grammar(
    context: Context,
    request: ChatCompletionRequest,
    model: ServedModel,
    tools: ToolUse,
    reasoning: ReasoningPlan | None,
) -> Grammar | None:
    """Return the grammar of the answer after its reasoning; None if the answer is free."""
    constraint = chat_constraint(request, tools, model.tokenizer)
    if constraint is None:
        return None
    after = () if reasoning is None else reasoning.grammar_after
    return await compile_constraint(context, model, constraint, after)


def _visible_token_ids(
    model: ServedModel, tools: ToolUse, reasoning: ReasoningPlan | None
) -> frozenset[int]:
    """Return the special tokens that the readers need to see."""
    visible = model.tokenizer.special_token_ids(tools.delimiters)
    return visible if reasoning is None else visible | reasoning.delimiters.special_token_ids


def _reader(
    request: ChatCompletionRequest, reasoning: ReasoningPlan | None, content_reader: MessageReader
) -> MessageReader:
    """Return the reader of one choice.

    content_reader: reads what follows the reasoning.
    """
    if reasoning is None:
        return content_reader
    return reasoning.reader(content_reader, include=request.include_reasoning is not False)


def _tools(request: ChatCompletionRequest, model: ServedModel) -> ToolUse:
    serving = model.group.serving
    hides_unused = serving.exclude_tools_when_tool_choice_none
    tools = resolve_tools(request, model.tool_parser, hides_unused=hides_unused)
    return at_strict_level(tools, serving.tool_strict_level)


def _sampling(
    request: ChatCompletionRequest,
    model: ServedModel,
    prompt_tokens: int,
    budget: ThinkingBudget | None,
) -> SamplingParams:
    limit, field = request.output_limit
    return sampling_params(
        request,
        model.tokenizer.info,
        model.seeds,
        prompt_tokens=prompt_tokens,
        limit=OutputLimit(limit, field),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=_prompt_logprobs(request),
        thinking_budget=budget,
    )


def _prompt_logprobs(request: ChatCompletionRequest) -> int | None:
    """Return how many log probabilities each prompt token gets.

    With an echo, the prompt's tokens get as many as the answer's; streams have no field for them.
    """
    if request.prompt_logprobs is None and request.echo and not request.stream:
        return request.top_logprobs or 0
    return request.prompt_logprobs
