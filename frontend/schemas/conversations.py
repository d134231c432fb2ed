"""The requests of /v1/conversations."""

from typing import Annotated

from headrace.frontend.schemas.fields import RequestModel
from headrace.frontend.schemas.limits import at_most_of
from headrace.frontend.schemas.responses import Item, Metadata

Items = Annotated[list[Item], at_most_of("max_messages")]


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
