"""Implement the routes of /v1/conversations."""

from typing import Any

from headrace.frontend.errors import ApiError
from headrace.frontend.http.parsing import ignore_parts
from headrace.frontend.process.worker_thread import MANY_PARTS, run_in_worker_thread
from headrace.frontend.responses.output.ids import (
    is_conversation_id,
    new_conversation_id,
    new_response_id,
)
from headrace.frontend.responses.request.input_items import read_items
from headrace.frontend.responses.store.conversation_store import (
    ConversationStore,
    StoredConversation,
)
from headrace.frontend.schemas.conversations import ConversationRequest
from headrace.frontend.schemas.responses import Item


class ConversationNotFound(ApiError):
    status = 404
    kind = "invalid_request_error"

    def __init__(self, param: str = "conversation_id") -> None:
        super().__init__(f"{param}: there is no such conversation.", param)


class ItemNotFound(ApiError):
    status = 404
    kind = "invalid_request_error"

    def __init__(self) -> None:
        super().__init__("item_id: there is no such item in this conversation.", "item_id")


class Conversations:
    """Creates, shows, changes and deletes conversations and their items, each for one tenant."""

    def __init__(self, store: ConversationStore) -> None:
        self._store = store

    async def create(self, tenant: str, request: ConversationRequest) -> dict[str, Any]:
        """Create a conversation. Raises BadRequest if an item is invalid."""
        items = await _read_items(request.items or [])
        metadata = request.metadata or {}
        return _body(await self._store.create(new_conversation_id(), tenant, metadata, items))

    async def get(self, tenant: str, conversation_id: str) -> dict[str, Any]:
        """Return a conversation. Raises ConversationNotFound if there is none."""
        _check_id(conversation_id)
        return _body(_found(await self._store.get(conversation_id, tenant)))

    async def set_metadata(
        self, tenant: str, conversation_id: str, metadata: dict[str, str] | None
    ) -> dict[str, Any]:
        """Replace a conversation's metadata. Raises ConversationNotFound if there is none."""
        _check_id(conversation_id)
        stored = await self._store.set_metadata(conversation_id, tenant, metadata or {})
        return _body(_found(stored))

    async def delete(self, tenant: str, conversation_id: str) -> dict[str, Any]:
        """Delete a conversation. Raises ConversationNotFound if there is none."""
        _check_id(conversation_id)
        if not await self._store.delete(conversation_id, tenant):
            raise ConversationNotFound
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    async def items(self, tenant: str, conversation_id: str) -> list[Item]:
        """Return the items of a conversation. Raises ConversationNotFound if there is none."""
        _check_id(conversation_id)
        stored = await self._store.items(conversation_id, tenant)
        if stored is None:
            raise ConversationNotFound
        return stored.items

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> Item:
        """Return an item. Raises ConversationNotFound or ItemNotFound if it is not there."""
        for item in await self.items(tenant, conversation_id):
            if item["id"] == item_id:
                return item
        raise ItemNotFound

    async def append(self, tenant: str, conversation_id: str, items: list[Item]) -> list[Item]:
        """Append items and return them.

        Raises ConversationNotFound if there is no conversation, BadRequest if an item is invalid.
        """
        _check_id(conversation_id)
        stored = await self._store.append(conversation_id, tenant, await _read_items(items))
        if stored is None:
            raise ConversationNotFound
        return stored

    async def delete_item(self, tenant: str, conversation_id: str, item_id: str) -> dict[str, Any]:
        """Delete an item and return the conversation.

        Raises ConversationNotFound or ItemNotFound if it is not there.
        """
        conversation = await self.get(tenant, conversation_id)
        if not await self._store.delete_item(conversation_id, item_id):
            raise ItemNotFound
        return conversation


async def _read_items(items: list[Item]) -> list[Item]:
    # Ids of items have the form of those of a response's; no response has this id.
    read, ignored = await run_in_worker_thread(
        lambda: read_items(items, new_response_id(), {}, "items"), len(items) > MANY_PARTS
    )
    ignore_parts(ignored)
    return read


def _check_id(conversation_id: str) -> None:
    if not is_conversation_id(conversation_id):
        raise ConversationNotFound


def _found(stored: StoredConversation | None) -> StoredConversation:
    if stored is None:
        raise ConversationNotFound
    return stored


def _body(stored: StoredConversation) -> dict[str, Any]:
    return {
        "id": stored.conversation_id,
        "object": "conversation",
        "created_at": stored.created_at,
        "metadata": stored.metadata,
    }
