"""A chat request under way: the way from its messages to the message that answers it.

All APIs that answer chats start here; they differ in how they write what comes of it.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from frontend.chat.message import NOTHING, Message, MessagePart, MessageReader, PlainReader
from frontend.chat.prompts import render_chat
from frontend.chat.reasoning.count import ReasoningCounts
from frontend.chat.reasoning.thinking import Thinking, check_budget, thinking_of_chat
from frontend.chat.tools.constraint import chat_constraint
from frontend.chat.tools.use import NO_TOOLS, ToolUse, tool_use
from frontend.context import Context, ServedModel
from frontend.errors import BadRequest
from frontend.generation.choice import Choice, Delta
from frontend.generation.constraints import Constraints
from frontend.generation.prompts import check_encodable, text_prompt
from frontend.generation.run import Collected, Generation
from frontend.generation.sampling import OutputLimit, sampling_params
from frontend.generation.start import Cleanups, Prompt, start
from frontend.schemas.chat import ChatCompletionRequest
from frontend.structured.requested import compiled
from protocol.sampling import SamplingParams, ThinkingBudget


class MessageDelta(NamedTuple):
    """What one output adds to a message. delta: the same as text, with all else that it says.

    finish_reason: None while the message goes on.
    """

    part: MessagePart
    delta: Delta
    finish_reason: str | None


@dataclass(slots=True)
class Answered:
    """A whole choice: its text, and what that says as a message.

    reasoning_tokens: see ChatRun.
    """

    text: Collected
    message: Message
    finish_reason: str | None = None
    reasoning_tokens: int = 0


class ChatRun:
    """is_plain: whether all text of the choices is content, so that nothing needs to be read.
    thinking: how the choices begin; None if the model's reasoning is not told from the rest.
    tools: what the request says of them.
    """

    def __init__(
        self,
        model: ServedModel,
        request: ChatCompletionRequest,
        prompt: Prompt,
        generation: Generation,
        readers: Sequence[MessageReader],
        thinking: Thinking | None = None,
        tools: ToolUse = NO_TOOLS,
    ) -> None:
        self.model = model
        self.request = request
        self.prompt = prompt
        self.generation = generation
        self.tools = tools
        self.is_plain = all(isinstance(reader, PlainReader) for reader in readers)
        self.thinking = thinking
        self._readers = readers
        self._counts = ReasoningCounts(readers, thinking)

    @property
    def role(self) -> str:
        """Whose message the answer is."""
        if self.request.add_generation_prompt:
            return self.model.group.serving.response_role
        return self.request.messages[-1].role

    def read(self, choice: Choice, delta: Delta) -> MessageDelta:
        """What an output of the generation adds. Each is to be read once, in order."""
        reader = self._readers[choice.index]
        self._counts.add(choice.index, delta.token_ids)
        part = reader.feed(delta.text) if delta.text else NOTHING
        reason = delta.finish_reason
        if reason is not None:
            part = part.then(reader.finish())
            reason = reader.finish_reason(reason)
        return MessageDelta(part, delta, reason)

    def reasoning_tokens(self, choice: Choice) -> int:
        """Tokens of reasoning that have been read by now, marks not among them; given out or not.

        They are those that a thinking budget counts.
        """
        return self._counts.tokens(choice.index)

    async def deltas(self) -> AsyncIterator[tuple[Choice, MessageDelta]]:
        """What is added to the messages, until all have ended. Raises what the generation does."""
        try:
            async for choice, delta in self.generation:
                yield choice, self.read(choice, delta)
        except Exception:
            self.generation.fail()
            raise

    async def answers(self) -> list[Answered]:
        """All choices, whole."""
        answers = [Answered(Collected(choice), Message()) for choice in self.generation.choices]
        async for choice, delta in self.deltas():
            answer = answers[choice.index]
            answer.text.add(delta.delta)
            answer.message.add(delta.part)
            answer.finish_reason = delta.finish_reason
            answer.reasoning_tokens = self.reasoning_tokens(choice)
        return answers


async def start_chat(
    context: Context, request: ChatCompletionRequest, *, cleanups: Cleanups | None = None
) -> ChatRun:
    """Put a chat to the pool. ApiError if it cannot be run. cleanups: see `start`."""
    model = context.model(request.model)
    if request.top_logprobs and not request.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true.", "top_logprobs")
    check_budget(request, model.reasoning)
    tools = _tools(request, model)
    prompt = await chat_prompt(request, model, tools.shown)
    thinking = await _thinking(request, model, prompt, may_call=tools.mode == "auto")
    budget = None if thinking is None else thinking.budget(request.thinking_token_budget)
    constraints = await Constraints.of(request, model)
    sampling = _sampling(request, model, len(prompt.token_ids), budget)
    sampling = constraints.apply(sampling, request, model)
    after = () if thinking is None else thinking.grammar_after
    constraint = chat_constraint(request, tools, model.text)
    grammar = None if constraint is None else await compiled(context, model, constraint, after)
    kept = model.text.special_ids(tools.marks)
    if thinking is not None:
        kept |= thinking.marks.special_ids
    generation = start(
        context,
        model,
        request,
        [prompt],
        [sampling],
        kept_tokens=kept,
        grammar=grammar,
        cleanups=cleanups,
    )
    readers = [_reader(request, thinking, tools.reader()) for _ in generation.choices]
    return ChatRun(model, request, prompt, generation, readers, thinking, tools)


async def _thinking(
    request: ChatCompletionRequest, model: ServedModel, prompt: Prompt, *, may_call: bool
) -> Thinking | None:
    """may_call: whether a call of a tool may come at any time, and end reasoning."""
    if model.reasoning is None:
        return None
    variables = _variables(request, model)
    thinking = await thinking_of_chat(request, model.text, model.reasoning, prompt, variables)
    return replace(thinking, has_tools=may_call)


def _reader(
    request: ChatCompletionRequest, thinking: Thinking | None, rest: MessageReader
) -> MessageReader:
    """rest: reads what comes after reasoning."""
    if thinking is None:
        return rest
    return thinking.reader(rest, include=request.include_reasoning is not False)


def _tools(request: ChatCompletionRequest, model: ServedModel) -> ToolUse:
    hides_unused = model.group.serving.exclude_tools_when_tool_choice_none
    return tool_use(request, model.tool_parser, hides_unused=hides_unused)


async def chat_prompt(
    request: ChatCompletionRequest,
    model: ServedModel,
    tools: Sequence[dict[str, Any]] | None = None,
) -> Prompt:
    """The chat as the model's template writes it, in tokens. BadRequest if it cannot be.

    tools: as the template is told of them.
    """
    text = model.text
    for message in request.messages:
        check_encodable(text, message.content or "")
    rendered = await render_chat(
        text,
        request.messages,
        # The final message is continued only where no new one is begun.
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=_variables(request, model),
        documents=request.documents,
        own_template=request.chat_template,
        serving=model.group.serving,
        tools=tools,
    )
    return await text_prompt(request, text, rendered, request.add_special_tokens, "messages")


def _variables(request: ChatCompletionRequest, model: ServedModel) -> dict[str, Any]:
    """What the request gives to the chat template, else the operator. An effort turns thinking on
    or off, too, where templates have a switch for it."""
    variables = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        variables["reasoning_effort"] = request.reasoning_effort
        variables.setdefault("enable_thinking", request.reasoning_effort != "none")
    return {**model.group.serving.default_chat_template_kwargs, **variables}


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
