"""Puts a chat to the pool: the way from its messages to the run that answers it.

All APIs that answer chats start here; they differ in how they write what comes of it.
"""

from dataclasses import replace

from headrace.frontend.chat.message import MessageReader
from headrace.frontend.chat.prompt import chat_prompt, template_variables
from headrace.frontend.chat.reasoning.plan import ReasoningPlan, check_thinking_budget, plan_chat_reasoning
from headrace.frontend.chat.chat_run import ChatRun
from headrace.frontend.chat.tools.constraint import chat_constraint
from headrace.frontend.chat.tools.tool_use import ToolUse, tool_use
from headrace.frontend.context import Context, ServedModel
from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.token_constraints import TokenConstraints
from headrace.frontend.generation.sampling import OutputLimit, sampling_params
from headrace.frontend.generation.start_generation import Cleanups, Prompt, start_generation
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
    """Put a chat to the pool. ApiError if it cannot be run. cleanups, deadline: see `start`."""
    model = context.model(request.model)
    if request.top_logprobs and not request.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true.", "top_logprobs")
    check_thinking_budget(request, model.reasoning)
    tools = _tools(request, model)
    prompt = await chat_prompt(request, model, tools.shown)
    thinking = await _thinking(request, model, prompt, may_call=tools.mode == "auto")
    budget = None if thinking is None else thinking.budget(request.thinking_token_budget)
    constraints = await TokenConstraints.of(request, model)
    sampling = _sampling(request, model, len(prompt.token_ids), budget)
    sampling = constraints.apply(sampling, request, model)
    grammar = await _grammar(context, request, model, tools, thinking)
    generation = start_generation(
        context,
        model,
        request,
        [prompt],
        [sampling],
        kept_tokens=_kept_tokens(model, tools, thinking),
        grammar=grammar,
        cleanups=cleanups,
        deadline=deadline,
    )
    readers = [_reader(request, thinking, tools.reader()) for _ in generation.choices]
    return ChatRun(model, request, prompt, generation, readers, thinking, tools)


async def _thinking(
    request: ChatCompletionRequest, model: ServedModel, prompt: Prompt, *, may_call: bool
) -> ReasoningPlan | None:
    """may_call: whether a call of a tool may come at any time, and end reasoning."""
    if model.reasoning is None:
        return None
    variables = template_variables(request, model)
    thinking = await plan_chat_reasoning(request, model.text, model.reasoning, prompt, variables)
    return replace(thinking, has_tools=may_call)


async def _grammar(
    context: Context,
    request: ChatCompletionRequest,
    model: ServedModel,
    tools: ToolUse,
    thinking: ReasoningPlan | None,
) -> Grammar | None:
    """What the answer must conform to, after its reasoning; None if it is free."""
    constraint = chat_constraint(request, tools, model.text)
    if constraint is None:
        return None
    after = () if thinking is None else thinking.grammar_after
    return await compile_constraint(context, model, constraint, after)


def _kept_tokens(model: ServedModel, tools: ToolUse, thinking: ReasoningPlan | None) -> frozenset[int]:
    """Special tokens that the readers need to see."""
    kept = model.text.special_ids(tools.marks)
    return kept if thinking is None else kept | thinking.marks.special_ids


def _reader(
    request: ChatCompletionRequest, thinking: ReasoningPlan | None, rest: MessageReader
) -> MessageReader:
    """rest: reads what comes after reasoning."""
    if thinking is None:
        return rest
    return thinking.reader(rest, include=request.include_reasoning is not False)


def _tools(request: ChatCompletionRequest, model: ServedModel) -> ToolUse:
    hides_unused = model.group.serving.exclude_tools_when_tool_choice_none
    return tool_use(request, model.tool_parser, hides_unused=hides_unused)


def _sampling(
    request: ChatCompletionRequest,
    model: ServedModel,
    prompt_tokens: int,
    budget: ThinkingBudget | None,
) -> SamplingParams:
    asked, field = request.output_limit
    return sampling_params(
        request,
        model.text.info,
        model.seeds,
        prompt_tokens=prompt_tokens,
        limit=OutputLimit(asked, field),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=_prompt_logprobs(request),
        thinking_budget=budget,
    )


def _prompt_logprobs(request: ChatCompletionRequest) -> int | None:
    """With an echo, what is asked of the answer's tokens is told of the prompt's, too; streams have
    no place for it."""
    if request.prompt_logprobs is None and request.echo and request.logprobs and not request.stream:
        return request.top_logprobs or 0
    return request.prompt_logprobs
