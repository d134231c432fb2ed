"""The requests of POST /v1/embeddings: texts, token ids, or chats."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, FailFast, Field, RootModel

from headrace.frontend.schemas.chat import (
    ChatMessage,
    ChatTemplateText,
    Messages,
    TemplateArguments,
)
from headrace.frontend.schemas.fields import Name, unsupported
from headrace.frontend.schemas.limits import at_most_of
from headrace.frontend.schemas.pooling import NumberFields, TextOrIds, Texts
from headrace.frontend.schemas.response_bodies import Usage

Conversations = Annotated[list[Messages], FailFast(), Field(min_length=1), at_most_of("max_inputs")]


class EmbeddingRequest(NumberFields):
    """A request for the embeddings of texts.

    prompt_name: of the model's prompts, the one that goes before each text; "": none does. Without
        it, that is the model's default.
    """

    input: Texts
    add_special_tokens: bool = True
    prompt_name: Name | None = None

    @property
    def texts(self) -> list[TextOrIds]:
        texts: list[TextOrIds] = self.input
        return texts


class EmbeddingChatFields(NumberFields):
    """The fields of a request for the embeddings of chats."""

    add_special_tokens: bool = False
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    chat_template: ChatTemplateText | None = None
    chat_template_kwargs: TemplateArguments | None = None
    media_io_kwargs: Annotated[Any, unsupported(None, {})] = None

    @property
    def conversations(self) -> Sequence[list[ChatMessage]]:
        """The chats, each of which has one embedding."""
        raise NotImplementedError


class EmbeddingChatRequest(EmbeddingChatFields):
    messages: Messages

    @property
    def conversations(self) -> Sequence[list[ChatMessage]]:
        return [self.messages]


class EmbeddingChatsRequest(EmbeddingChatFields):
    messages: Conversations

    @property
    def conversations(self) -> Sequence[list[ChatMessage]]:
        return self.messages


class EmbeddingChatInputRequest(EmbeddingChatFields):
    input: Messages

    @property
    def conversations(self) -> Sequence[list[ChatMessage]]:
        return [self.input]


class EmbeddingChatsInputRequest(EmbeddingChatFields):
    input: Conversations

    @property
    def conversations(self) -> Sequence[list[ChatMessage]]:
        return self.input


AnyEmbeddingRequest = EmbeddingRequest | EmbeddingChatFields


class EmbeddingsBody(RootModel[EmbeddingRequest | EmbeddingChatRequest | EmbeddingChatsRequest]):
    """For the API's description only; bodies are validated as what `embedding_model` returns."""


def embedding_model(body: dict[str, Any]) -> type[EmbeddingRequest] | type[EmbeddingChatFields]:
    """Return the class of a body, by what it gives embeddings of."""
    if "messages" in body:
        is_batch = _holds(body["messages"], list)
        return EmbeddingChatsRequest if is_batch else EmbeddingChatRequest
    given = body.get("input")
    if _holds(given, dict):
        return EmbeddingChatInputRequest
    if _holds(given, list) and isinstance(given, list) and _holds(given[0], dict):
        return EmbeddingChatsInputRequest
    return EmbeddingRequest


def _holds(value: object, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], kind)


class Embedding(BaseModel):
    index: int
    object: str
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    id: str
    object: str
    created: int
    model: str
    data: list[Embedding]
    usage: Usage
