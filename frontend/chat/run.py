"""A chat request under way: the way from its messages to the message that answers it.

All APIs that answer chats start here; they differ in how they write what comes of it.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from frontend.chat.message import NOTHING, Message, MessagePart, MessageReader, PlainReader
from frontend.chat.prompts import render_chat
from frontend.context import Context, ServedModel
from frontend.errors import BadRequest
from frontend.generation.choice import Choice, Delta
from frontend.generation.prompts import check_encodable, text_prompt
from frontend.generation.run import Collected, Generation
from frontend.generation.sampling import OutputLimit, sampling_params
from frontend.generation.start import Prompt, start
from frontend.schemas.chat import ChatCompletionRequest
from frontend.text.model import TextModel
from protocol.sampling import SamplingParams


class MessageDelta(NamedTuple):
    """What one output adds to a message. delta: the same as text, with all else that it says.

    finish_reason: None while the message goes on.
    """

    part: MessagePart
    delta: Delta
    finish_reason: str | None


@dataclass(slots=True)
class Answered:
    """A whole choice: its text, and what that says as a message."""

    text: Collected
    message: Message
    finish_reason: str | None = None


class ChatRun:
    """is_plain: whether all text of the choices is content, so that nothing needs to be read."""

    def __init__(
        self,
        model: ServedModel,
        request: ChatCompletionRequest,
        prompt: Prompt,
        generation: Generation,
        readers: Sequence[MessageReader],
    ) -> None:
        self.model = model
        self.request = request
        self.prompt = prompt
        self.generation = generation
        self.is_plain = all(isinstance(reader, PlainReader) for reader in readers)
        self._readers = readers

    def read(self, choice: Choice, delta: Delta) -> MessageDelta:
        """What an output of the generation adds. Each is to be read once, in order."""
        reader = self._readers[choice.index]
        part = reader.feed(delta.text) if delta.text else NOTHING
        reason = delta.finish_reason
        if reason is not None:
            part = part.then(reader.finish())
            reason = reader.finish_reason(reason)
        return MessageDelta(part, delta, reason)

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
        return answers


async def start_chat(context: Context, request: ChatCompletionRequest) -> ChatRun:
    """Put a chat to the pool. ApiError if it cannot be run."""
    model = context.model(request.model)
    if request.top_logprobs and not request.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true.", "top_logprobs")
    prompt = await chat_prompt(request, model.text)
    sampling = _sampling(request, model, len(prompt.token_ids))
    generation = start(context, model, request, [prompt], [sampling])
    readers = [PlainReader() for _ in generation.choices]
    return ChatRun(model, request, prompt, generation, readers)


async def chat_prompt(request: ChatCompletionRequest, text: TextModel) -> Prompt:
    """The chat as the model's template writes it, in tokens. BadRequest if it cannot be."""
    variables = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        variables["reasoning_effort"] = request.reasoning_effort
    for message in request.messages:
        check_encodable(text, message.content or "")
    rendered = await render_chat(
        text,
        request.messages,
        # The final message is continued only where no new one is begun.
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=variables,
    )
    return await text_prompt(request, text, rendered, request.add_special_tokens, "messages")


def _sampling(
    request: ChatCompletionRequest, model: ServedModel, prompt_tokens: int
) -> SamplingParams:
    asked, field = request.output_limit
    return sampling_params(
        request,
        model.text.info,
        model.seeds,
        prompt_tokens=prompt_tokens,
        limit=OutputLimit(asked, field),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=request.prompt_logprobs,
    )
