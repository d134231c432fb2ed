"""Read and write the rows of the store."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, insert, select

from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.responses.output.response_body import ACTIVE, ResponseBody
from headrace.frontend.responses.store.journal import Entry
from headrace.frontend.responses.store.tables import batches
from headrace.frontend.schemas.responses import Item


class StoredResponse(NamedTuple):
    """A stored response. body: with its current status. job: see execution/job.py."""

    body: ResponseBody
    job: dict[str, Any]
    inputs: list[Item]
    background: bool
    attempts: int
    fingerprint: str
    previous_id: str | None
    tenant: str = ""

    @property
    def is_active(self) -> bool:
        """Whether the response is queued or runs."""
        return self.body["status"] in ACTIVE


class EventBatch(NamedTuple):
    """The additions to a response since its last batch.

    first: the sequence number of the first event.
    number: of the batch; a batch that is stored under it already is this one, whose writer did not
        learn that it was stored. None: the next number.
    """

    response_id: str
    first: int
    events: Sequence[str]
    journal: Sequence[Entry]
    number: int | None = None


def read_row(row: Row[Any]) -> StoredResponse:
    """Return the stored response of a row."""
    body = {**json.loads(row.body), "status": row.status}
    return StoredResponse(
        body,
        json.loads(row.job),
        json.loads(row.inputs),
        row.background,
        row.attempts,
        row.fingerprint,
        row.previous_id,
        row.tenant,
    )


def insert_batch(connection: Connection, batch: EventBatch) -> None:
    """Insert a batch, unless it is stored already."""
    of_response = batches.c.response_id == batch.response_id
    last = connection.execute(select(func.max(batches.c.number)).where(of_response)).scalar()
    next_number = 0 if last is None else last + 1
    if batch.number is not None and batch.number < next_number:
        return
    connection.execute(
        insert(batches).values(
            response_id=batch.response_id,
            number=next_number,
            first=batch.first,
            events=json.dumps(list(batch.events)),
            journal=json.dumps(list(batch.journal)),
        )
    )


def append_end_event(connection: Connection, response_id: str, body: ResponseBody) -> None:
    """Append the terminal event, if the response has events."""
    query = (
        select(batches.c.first, batches.c.events)
        .where(batches.c.response_id == response_id)
        .order_by(batches.c.number.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    if row is None:
        return
    first = row.first + len(json.loads(row.events))
    events: list[str] = []
    EventWriter(events.append, first).lifecycle(body["status"], body)
    insert_batch(connection, EventBatch(response_id, first, events, ()))
