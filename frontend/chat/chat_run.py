"""A running chat request: the outputs of its choices, parsed as messages."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headrace.frontend.chat.message import (
    NOTHING,
    CollectedMessage,
    MessagePart,
    MessageReader,
    PlainReader,
)
from headrace.frontend.chat.reasoning.plan import ReasoningPlan
from headrace.frontend.chat.reasoning.token_counter import ReasoningTokenCounter
from headrace.frontend.chat.tools.tool_use import NO_TOOLS, ToolUse
from headrace.frontend.context import ServedModel
from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.generation.generation import CollectedChoice, Generation
from headrace.frontend.generation.start_generation import Prompt
from headrace.frontend.schemas.chat import ChatCompletionRequest


class MessageDelta(NamedTuple):
    """The addition of one output of the generation to a message.

    delta: the same addition as text, with its token ids, log probabilities and so on.
    finish_reason: None while the message goes on.
    """

    part: MessagePart
    delta: Delta
    finish_reason: str | None


@dataclass(slots=True)
class AnsweredChoice:
    """A complete choice: its output and the message parsed from it.

    reasoning_tokens: see ChatRun.reasoning_tokens.
    """

    text: CollectedChoice
    message: CollectedMessage
    finish_reason: str | None = None
    reasoning_tokens: int = 0


class ChatRun:
    """A chat request while it runs.

    is_plain: whether the outputs are content only, so that they need no parsing.
    reasoning: how the choices begin; None if the model's reasoning is not separated from content.
    tools: which tools may be called, and how.
    """

    def __init__(
        self,
        model: ServedModel,
        request: ChatCompletionRequest,
        prompt: Prompt,
        generation: Generation,
        readers: Sequence[MessageReader],
        reasoning: ReasoningPlan | None = None,
        tools: ToolUse = NO_TOOLS,
        on_parsed: Callable[[bool], None] | None = None,
    ) -> None:
        """Create a run.

        on_parsed: called for each choice in which a parser looked for tool calls: whether it found
            any.
        """
        self.model = model
        self.request = request
        self.prompt = prompt
        self.generation = generation
        self.tools = tools
        self.is_plain = all(isinstance(reader, PlainReader) for reader in readers)
        self.reasoning = reasoning
        self._readers = readers
        self._on_parsed = on_parsed
        self._token_counter = ReasoningTokenCounter(readers, reasoning, model.tokenizer)

    @property
    def role(self) -> str:
        """Return the role of the answer's author."""
        if self.request.add_generation_prompt:
            return self.model.group.serving.response_role
        return self.request.messages[-1].role

    def read(self, choice: Choice, delta: Delta) -> MessageDelta:
        """Return what an output adds to its message. Call it once for each output, in order."""
        reader = self._readers[choice.index]
        self._token_counter.add(choice.index, delta.token_ids)
        part = reader.feed(delta.text) if delta.text else NOTHING
        reason = delta.finish_reason
        if reason is not None:
            part = part.then(reader.finish())
            reason = reader.finish_reason(reason)
            if self._on_parsed is not None and self.tools.mode == "auto":
                self._on_parsed(reason == "tool_calls")
        return MessageDelta(part, delta, reason)

    def reasoning_tokens(self, choice: Choice) -> int:
        """Return how many reasoning tokens the choice has so far, without delimiters.

        Counts them whether or not they are returned to the client, as a thinking budget does.
        """
        return self._token_counter.tokens(choice.index)

    async def deltas(self) -> AsyncIterator[tuple[Choice, MessageDelta]]:
        """Yield the additions to the messages, until all have ended.

        Raises what the generation raises.
        """
        try:
            async for choice, delta in self.generation:
                yield choice, self.read(choice, delta)
        except Exception:
            self.generation.fail()
            raise

    async def answers(self) -> list[AnsweredChoice]:
        """Run all choices to their end and return them."""
        answers = [
            AnsweredChoice(CollectedChoice(choice), CollectedMessage())
            for choice in self.generation.choices
        ]
        async for choice, delta in self.deltas():
            answer = answers[choice.index]
            answer.text.add(delta.delta)
            answer.message.add(delta.part)
            answer.finish_reason = delta.finish_reason
            answer.reasoning_tokens = self.reasoning_tokens(choice)
        return answers
