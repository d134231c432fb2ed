"""The requests and answers of POST /classify."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, RootModel

from headrace.frontend.schemas.chat import (
    ChatMessage,
    ChatTemplateText,
    Messages,
    TemplateArguments,
)
from headrace.frontend.schemas.fields import unsupported
from headrace.frontend.schemas.pooling import PoolingFields, TextOrIds, Texts
from headrace.frontend.schemas.response_bodies import Usage


class ClassifyRequest(PoolingFields):
    """A request for the labels of texts."""

    input: Texts
    add_special_tokens: bool = True

    @property
    def texts(self) -> list[TextOrIds]:
        texts: list[TextOrIds] = self.input
        return texts


class ClassifyChatRequest(PoolingFields):
    """A request for the label of a chat."""

    messages: Messages
    add_special_tokens: bool = False
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    chat_template: ChatTemplateText | None = None
    chat_template_kwargs: TemplateArguments | None = None
    media_io_kwargs: Annotated[Any, unsupported(None, {})] = None

    @property
    def conversations(self) -> Sequence[list[ChatMessage]]:
        """The chat, as the only one."""
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
