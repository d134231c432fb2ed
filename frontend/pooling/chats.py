"""Turn the chats of requests for numbers into the tokens that workers get."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from headrace.frontend.chat.render import render_chat
from headrace.frontend.context import ServedModel
from headrace.frontend.generation.prompts import check_encodable
from headrace.frontend.pooling.texts import EncodeInput, Truncation, encode_texts
from headrace.frontend.schemas.chat import ChatMessage


class ChatFields(Truncation, Protocol):
    """The fields of a request for the numbers of chats."""

    @property
    def conversations(self) -> Sequence[list[ChatMessage]]: ...

    @property
    def add_special_tokens(self) -> bool: ...

    @property
    def add_generation_prompt(self) -> bool: ...

    @property
    def continue_final_message(self) -> bool: ...

    @property
    def chat_template(self) -> str | None: ...

    @property
    def chat_template_kwargs(self) -> Mapping[str, Any] | None: ...


async def encode_chats(request: ChatFields, model: ServedModel) -> list[EncodeInput]:
    """Render chats with the model's template and tokenize them. Raises BadRequest."""
    texts = [await _render(model, request, chat) for chat in request.conversations]
    return await encode_texts(
        request, model, texts, add_special_tokens=request.add_special_tokens, field="messages"
    )


async def _render(model: ServedModel, request: ChatFields, chat: Sequence[ChatMessage]) -> str:
    for message in chat:
        check_encodable(model.tokenizer, message.content or "", "messages")
    return await render_chat(
        model.tokenizer,
        chat,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=request.chat_template_kwargs or {},
        request_template=request.chat_template,
        serving=model.group.serving,
    )
