"""Create, read, change, delete and prune conversations; each method is one transaction."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, Delete, Row, delete, func, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from headrace.frontend.errors import BadRequest
from headrace.frontend.responses.store.conversation_tables import (
    append_items,
    conversation_items,
    conversations,
)
from headrace.frontend.responses.store.response_store import MAX_CHAIN_CHARS, PRUNE_BATCH
from headrace.frontend.schemas.responses import Item
from headrace.frontend.store.database import Database
from headrace.frontend.store.engine import tenants_of

# Longer conversations cannot be continued.
MAX_ITEMS = 10_000


class StoredConversation(NamedTuple):
    """A stored conversation, without its items."""

    conversation_id: str
    created_at: int
    metadata: dict[str, str]


class ConversationItems(NamedTuple):
    """The items of a conversation. end: the number of the next item that is added."""

    items: list[Item]
    end: int


class ConversationStore:
    """The conversations of the store, shared by all frontends.

    max_age_s, max_count: `prune` deletes conversations beyond these limits, those first that have
        been without a new item for the longest time. Each tenant may have so many.

    A conversation of another tenant is none: its row is not looked for.
    """

    def __init__(self, database: Database, max_age_s: float, max_count: int) -> None:
        self._database = database
        self._max_age_s, self._max_count = max_age_s, max_count

    async def create(
        self,
        conversation_id: str,
        tenant: str,
        metadata: Mapping[str, str],
        items: Sequence[Item],
    ) -> StoredConversation:
        """Store a new conversation."""
        values = {
            "id": conversation_id,
            "tenant": tenant,
            "created_at": self._database.now,
            "used_at": self._database.now,
            "metadata": json.dumps(dict(metadata)),
        }

        def write(connection: Connection) -> StoredConversation:
            connection.execute(insert(conversations).values(**values))
            append_items(connection, conversation_id, items, self._database.now)
            return _read(connection.execute(_by_id(conversation_id, tenant)).one())

        return await self._database.write(write)

    async def get(self, conversation_id: str, tenant: str) -> StoredConversation | None:
        """Return a conversation; None if it is not stored."""

        def read(connection: Connection) -> StoredConversation | None:
            row = connection.execute(_by_id(conversation_id, tenant)).first()
            return None if row is None else _read(row)

        return await self._database.read(read)

    async def set_metadata(
        self, conversation_id: str, tenant: str, metadata: Mapping[str, str]
    ) -> StoredConversation | None:
        """Replace the metadata of a conversation and return it; None if it is not stored."""
        this = _this(conversation_id, tenant)
        statement = update(conversations).where(this).values(metadata=json.dumps(dict(metadata)))

        def write(connection: Connection) -> StoredConversation | None:
            connection.execute(statement)
            row = connection.execute(_by_id(conversation_id, tenant)).first()
            return None if row is None else _read(row)

        return await self._database.write(write)

    async def delete(self, conversation_id: str, tenant: str) -> bool:
        """Delete a conversation with its items; return whether it was stored."""
        statement = delete(conversations).where(_this(conversation_id, tenant))
        return await self._rows(statement) > 0

    async def append(
        self, conversation_id: str, tenant: str, items: Sequence[Item]
    ) -> list[Item] | None:
        """Append items and return them as they are stored; None if there is no conversation.

        Raises BadRequest if the conversation is full.
        """
        of_conversation = conversation_items.c.conversation_id == conversation_id
        count = select(func.count()).select_from(conversation_items).where(of_conversation)

        def write(connection: Connection) -> list[Item] | None:
            if connection.execute(_by_id(conversation_id, tenant)).first() is None:
                return None
            if (connection.execute(count).scalar() or 0) >= MAX_ITEMS:
                raise BadRequest("conversation: it is full.", "conversation")
            return append_items(connection, conversation_id, items, self._database.now)

        return await self._database.write(write)

    async def items(
        self, conversation_id: str, tenant: str, end: int | None = None
    ) -> ConversationItems | None:
        """Return the items of a conversation; None if it is not stored.

        end: only items with smaller numbers are returned, if it is given.
        Raises BadRequest if the conversation is too long.
        """
        of_conversation = conversation_items.c.conversation_id == conversation_id
        query = (
            select(conversation_items.c.number, conversation_items.c.item)
            .where(of_conversation)
            .order_by(conversation_items.c.number)
            .limit(MAX_ITEMS + 1)
        )
        if end is not None:
            query = query.where(conversation_items.c.number < end)

        def read(connection: Connection) -> ConversationItems | None:
            if connection.execute(_by_id(conversation_id, tenant)).first() is None:
                return None
            texts: list[str] = []
            size = next_number = 0
            for row in connection.execute(query):
                size += len(row.item)
                if len(texts) >= MAX_ITEMS or size > MAX_CHAIN_CHARS:
                    raise BadRequest("conversation: it is too long.", "conversation")
                texts.append(row.item)
                next_number = row.number + 1
            return ConversationItems([json.loads(text) for text in texts], next_number)

        return await self._database.read(read)

    async def delete_item(self, conversation_id: str, item_id: str) -> bool:
        """Delete an item of a conversation; return whether it was stored."""
        statement = delete(conversation_items).where(
            conversation_items.c.conversation_id == conversation_id,
            conversation_items.c.item_id == item_id,
        )
        return await self._rows(statement) > 0

    async def prune(self, can_tell_ages: bool = True) -> None:
        """Delete conversations that have not been used for too long, or are too many.

        can_tell_ages: see `ResponseStore.prune`.
        """
        old = (
            select(conversations.c.id)
            .where(conversations.c.used_at < self._database.now - self._max_age_s)
            .limit(PRUNE_BATCH)
        )
        excess = [
            select(conversations.c.id)
            .where(conversations.c.tenant == tenant)
            .order_by(self._database.age_order(conversations.c.used_at).desc())
            .offset(self._max_count)
            .limit(PRUNE_BATCH)
            for tenant in await self._database.read(partial(tenants_of, conversations))
        ]
        for query in (*([old] if can_tell_ages else []), *excess):
            statement = delete(conversations).where(conversations.c.id.in_(query))
            while await self._rows(statement):
                pass

    async def _rows(self, statement: Delete) -> int:
        """Run a statement and return how many rows it has deleted."""
        return await self._database.write(lambda connection: connection.execute(statement).rowcount)


def _by_id(conversation_id: str, tenant: str) -> Any:
    return select(conversations).where(_this(conversation_id, tenant))


def _this(conversation_id: str, tenant: str) -> ColumnElement[bool]:
    return (conversations.c.id == conversation_id) & (conversations.c.tenant == tenant)


def _read(row: Row[Any]) -> StoredConversation:
    return StoredConversation(row.id, int(row.created_at), json.loads(row.metadata))
