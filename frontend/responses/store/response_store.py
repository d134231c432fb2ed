"""Create, read, cancel, delete and prune stored responses; each method is one transaction."""

import json
from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection, Select, delete, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from headrace.frontend.errors import BadRequest
from headrace.frontend.responses.execution.job import Job
from headrace.frontend.responses.output.response_body import (
    ACTIVE,
    CANCELLED,
    ResponseBody,
    with_status,
)
from headrace.frontend.responses.store.conversation_tables import append_items
from headrace.frontend.responses.store.rows import StoredResponse, append_end_event, read_row
from headrace.frontend.responses.store.tables import responses
from headrace.frontend.schemas.responses import Item
from headrace.frontend.store.database import Database
from headrace.frontend.store.engine import tenants_of

# Longer conversations cannot be continued.
MAX_CHAIN = 1000
MAX_CHAIN_CHARS = 32 * 1024 * 1024
# Rows that are deleted in one transaction.
PRUNE_BATCH = 200


class ResponseStore:
    """The store of responses, shared by all frontends.

    max_age_s, max_count: `prune` deletes responses beyond these limits, the oldest first. Each
        tenant may have so many, so that none can push out what another has.

    A response of another tenant is none: its row is not looked for.
    """

    def __init__(self, database: Database, max_age_s: float, max_count: int) -> None:
        self._database = database
        self._max_age_s, self._max_count = max_age_s, max_count

    async def create(self, job: Job, owner: str | None, body: ResponseBody | None = None) -> None:
        """Store a new response.

        owner: the frontend that runs it; None if it has ended, so that its conversation gets its
            items. body: None for that of the job.
        """
        body = body or job.body

        def write(connection: Connection) -> None:
            statement = insert(responses).values(
                id=job.response_id,
                created_at=self._database.now,
                status=body["status"],
                background=body["background"],
                owner=owner,
                heartbeat=self._database.now,
                attempts=1,
                fingerprint=job.fingerprint,
                previous_id=job.request.previous_response_id,
                tenant=job.principal.tenant,
                job=json.dumps(job.to_json()),
                inputs=json.dumps(list(job.inputs)),
                body=json.dumps(body),
            )
            connection.execute(statement)
            if owner is None and job.request.conversation is not None:
                added = job.new_items(body)
                append_items(connection, job.request.conversation, added, self._database.now)

        await self._database.write(write)

    async def get(self, response_id: str, tenant: str) -> StoredResponse | None:
        """Return a response; None if it is not stored."""
        query = select(responses).where(_this(response_id, tenant))

        def read(connection: Connection) -> StoredResponse | None:
            row = connection.execute(query).first()
            return None if row is None else read_row(row)

        return await self._database.read(read)

    async def delete(self, response_id: str, tenant: str) -> bool:
        """Delete a response; return whether it was stored."""
        statement = delete(responses).where(_this(response_id, tenant))
        return (
            await self._database.write(lambda connection: connection.execute(statement).rowcount)
            > 0
        )

    async def conversation(self, response_id: str, tenant: str) -> list[Item]:
        """Return all items up to a response, with its output.

        Raises BadRequest if the conversation is too long or its beginning is deleted.
        """

        def walk(connection: Connection) -> list[Item]:
            turns: list[list[Item]] = []
            size = 0
            current: str | None = response_id
            while current is not None:
                query = select(responses).where(_this(current, tenant))
                row = connection.execute(query).first()
                if row is None:
                    raise BadRequest(
                        "previous_response_id: the beginning of the conversation is not stored any"
                        " more.",
                        "previous_response_id",
                    )
                size += len(row.inputs) + len(row.body)
                if len(turns) >= MAX_CHAIN or size > MAX_CHAIN_CHARS:
                    raise BadRequest(
                        "previous_response_id: the conversation is too long.",
                        "previous_response_id",
                    )
                turns.append(json.loads(row.inputs) + json.loads(row.body)["output"])
                current = row.previous_id
            return [item for turn in reversed(turns) for item in turn]

        return await self._database.read(walk)

    async def cancel(self, response_id: str, tenant: str) -> StoredResponse | None:
        """Cancel a running response, whichever frontend owns it, and return it.

        An ended response stays as it is; returns None if it is not stored.
        """

        def write(connection: Connection) -> StoredResponse | None:
            this = _this(response_id, tenant)
            query = select(responses).where(this).with_for_update()
            row = connection.execute(query).first()
            if row is None or row.status not in ACTIVE:
                return None if row is None else read_row(row)
            body = with_status(json.loads(row.body), CANCELLED)
            values = {"status": CANCELLED, "body": json.dumps(body), "owner": None}
            connection.execute(update(responses).where(this).values(**values))
            append_end_event(connection, response_id, body)
            return read_row(row)._replace(body=body)

        return await self._database.write(write)

    async def can_tell_ages(self) -> bool:
        """Return whether what seems too old may be deleted: no clock has been set lately."""
        return await self._database.can_tell_ages()

    async def prune(self, can_tell_ages: bool = True) -> int:
        """Delete ended responses that are too old or too many; return how many were deleted.

        can_tell_ages: see ClockSteps. If not, none is too old. Too many: those that a clock which
        was wrong has dated in the future are the oldest, as others are made now.
        """
        ended = responses.c.status.not_in(ACTIVE)
        old = (
            select(responses.c.id)
            .where(ended, responses.c.created_at < self._database.now - self._max_age_s)
            .limit(PRUNE_BATCH)
        )
        excess = [
            select(responses.c.id)
            .where(ended, responses.c.tenant == tenant)
            .order_by(self._database.age_order(responses.c.created_at).desc())
            .offset(self._max_count)
            .limit(PRUNE_BATCH)
            for tenant in await self._database.read(partial(tenants_of, responses))
        ]

        def write(query: Select[tuple[str]]) -> Callable[[Connection], int]:
            statement = delete(responses).where(responses.c.id.in_(query))
            return lambda connection: connection.execute(statement).rowcount

        deleted = 0
        for query in (*([old] if can_tell_ages else []), *excess):
            while (count := await self._database.write(write(query))) > 0:
                deleted += count
        return deleted


def _this(response_id: str, tenant: str) -> ColumnElement[bool]:
    return (responses.c.id == response_id) & (responses.c.tenant == tenant)
