"""The requests of POST /pooling: texts, token ids, or a chat, for any task of the model."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, RootModel

from headrace.frontend.schemas.chat import ChatMessage, Messages
from headrace.frontend.schemas.fields import Name
from headrace.frontend.schemas.pooling.fields import ChatFields, NumberFields, TextFields
from headrace.frontend.schemas.response_bodies import Usage


class PoolingRequest(NumberFields, TextFields):
    """A request for the numbers of texts. task: None: the model's first."""

    task: Name | None = None


class PoolingChatRequest(NumberFields, ChatFields):
    """A request for the numbers of a chat."""

    messages: Messages
    task: Name | None = None

    @property
    def conversations(self) -> Sequence[list[ChatMessage]]:
        return [self.messages]


AnyPoolingRequest = PoolingRequest | PoolingChatRequest


class PoolingBody(RootModel[PoolingRequest | PoolingChatRequest]):
    """For the API's description only; bodies are validated as what `pooling_model` returns."""


def pooling_model(body: dict[str, Any]) -> type[PoolingRequest] | type[PoolingChatRequest]:
    """Return the class of a body, by what it gives numbers of."""
    return PoolingChatRequest if "messages" in body else PoolingRequest


class TextNumbers(BaseModel):
    """The numbers of a text, or of each of its tokens."""

    index: int
    object: str
    data: list[float] | list[list[float]] | str


class PoolingAnswer(BaseModel):
    id: str
    object: str
    created: int
    model: str
    data: list[TextNumbers]
    usage: Usage
