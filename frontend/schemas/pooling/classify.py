"""The requests and answers of POST /classify."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, RootModel

from headrace.frontend.schemas.chat import ChatMessage, Messages
from headrace.frontend.schemas.pooling.fields import ChatFields, TextFields
from headrace.frontend.schemas.response_bodies import Usage


class ClassifyRequest(TextFields):
    """A request for the labels of texts."""


class ClassifyChatRequest(ChatFields):
    """A request for the label of a chat."""

    messages: Messages

    @property
    def conversations(self) -> Sequence[list[ChatMessage]]:
        return [self.messages]


class ClassifyBody(RootModel[ClassifyRequest | ClassifyChatRequest]):
    """For the API's description only; bodies are validated as one of the two."""


def classify_model(body: dict[str, Any]) -> type[ClassifyRequest] | type[ClassifyChatRequest]:
    """Return the class of a body, by what it gives labels of."""
    return ClassifyChatRequest if "messages" in body else ClassifyRequest


class Classification(BaseModel):
    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class ClassificationList(BaseModel):
    id: str
    object: str
    created: int
    model: str
    data: list[Classification]
    usage: Usage
