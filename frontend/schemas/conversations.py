"""The requests of /v1/conversations."""

from typing import Annotated

from pydantic import Field

from headrace.frontend.schemas.chat import MAX_MESSAGES
from headrace.frontend.schemas.fields import RequestModel, at_most
from headrace.frontend.schemas.responses import Item, Metadata

Items = Annotated[list[Item], Field(max_length=MAX_MESSAGES), at_most(MAX_MESSAGES)]


class ConversationRequest(RequestModel):
    """A new conversation. items: its first items."""

    items: Items | None = None
    metadata: Metadata | None = None


class ConversationUpdateRequest(RequestModel):
    """The new metadata of a conversation."""

    metadata: Metadata | None


class ConversationItemsRequest(RequestModel):
    """Items to append to a conversation."""

    items: Items
