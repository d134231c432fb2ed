"""Define the tables of conversations, and append to them."""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from headrace.frontend.responses.output.ids import input_id
from headrace.frontend.schemas.responses import Item
from headrace.frontend.store.engine import metadata, tenant_column

# used_at: when an item was last added, seconds since 1970 by the database's clock, as created_at.
# metadata: JSON.
conversations = Table(
    "headrace_conversations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("used_at", Float, nullable=False),
    Column("metadata", Text, nullable=False),
    tenant_column(),
    Index("headrace_conversations_used", "used_at"),
    Index("headrace_conversations_tenant", "tenant", "used_at"),
)

# number: of the item, in order; items are deleted, so that some are missing. item: JSON.
conversation_items = Table(
    "headrace_conversation_items",
    metadata,
    Column(
        "conversation_id",
        String(64),
        ForeignKey("headrace_conversations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("item_id", Text, nullable=False),
    Column("item", Text, nullable=False),
)


def append_items(
    connection: Connection,
    conversation_id: str,
    items: Sequence[Item],
    now: ColumnElement[float],
) -> list[Item] | None:
    """Append items; return them as they are stored, or None if there is no such conversation.

    An item with the id of another one gets an id of its own.
    """
    this = conversations.c.id == conversation_id
    locked = select(conversations.c.id).where(this).with_for_update()
    if connection.execute(locked).first() is None:
        return None
    own = conversation_items.c.conversation_id == conversation_id
    last = connection.execute(select(func.max(conversation_items.c.number)).where(own)).scalar()
    taken = set(connection.execute(select(conversation_items.c.item_id).where(own)).scalars())
    start = 0 if last is None else last + 1
    rows: list[dict[str, Any]] = []
    stored: list[Item] = []
    for number, item in enumerate(items, start):
        if item["id"] in taken:
            new_id = input_id(f"resp_{secrets.token_hex(16)}", item["type"], 0)
            item = {**item, "id": new_id}
        taken.add(item["id"])
        stored.append(item)
        rows.append(
            {
                "conversation_id": conversation_id,
                "number": number,
                "item_id": item["id"],
                "item": json.dumps(item),
            }
        )
    if rows:
        connection.execute(insert(conversation_items), rows)
    connection.execute(update(conversations).where(this).values(used_at=now))
    return stored
