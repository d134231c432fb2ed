"""A chat request under way: what its texts say as messages."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headrace.frontend.chat.message import NOTHING, Message, MessagePart, MessageReader, PlainReader
from headrace.frontend.chat.reasoning.token_counter import ReasoningTokenCounter
from headrace.frontend.chat.reasoning.plan import ReasoningPlan
from headrace.frontend.chat.tools.tool_use import NO_TOOLS, ToolUse
from headrace.frontend.context import ServedModel
from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.generation.generation import CollectedChoice, Generation
from headrace.frontend.generation.start_generation import Prompt
from headrace.frontend.schemas.chat import ChatCompletionRequest


class MessageDelta(NamedTuple):
    """What one output adds to a message. delta: the same as text, with all else that it says.

    finish_reason: None while the message goes on.
    """

    part: MessagePart
    delta: Delta
    finish_reason: str | None


@dataclass(slots=True)
class AnsweredChoice:
    """A whole choice: its text, and what that says as a message.

    reasoning_tokens: see ChatRun.
    """

    text: CollectedChoice
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
        thinking: ReasoningPlan | None = None,
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
        self._counts = ReasoningTokenCounter(readers, thinking)

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

    async def answers(self) -> list[AnsweredChoice]:
        """All choices, whole."""
        answers = [AnsweredChoice(CollectedChoice(choice), Message()) for choice in self.generation.choices]
        async for choice, delta in self.deltas():
            answer = answers[choice.index]
            answer.text.add(delta.delta)
            answer.message.add(delta.part)
            answer.finish_reason = delta.finish_reason
            answer.reasoning_tokens = self.reasoning_tokens(choice)
        return answers
