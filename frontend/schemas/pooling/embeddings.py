"""The requests of POST /v1/embeddings: texts, token ids, or chats."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, RootModel

from headrace.frontend.schemas.chat import ChatMessage, Messages
from headrace.frontend.schemas.pooling.fields import (
    ChatFields,
    Conversations,
    NumberFields,
    TextFields,
)
from headrace.frontend.schemas.response_bodies import Usage


class EmbeddingRequest(NumberFields, TextFields):
    """A request for the embeddings of texts."""


class EmbeddingChatFields(NumberFields, ChatFields):
    """The fields of a request for the embeddings of chats."""


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
