"""Own running responses in the store: append events, renew heartbeats, take over, finish.

Only the owner may write to a running response; writes report the responses that it has lost. Each
method is one transaction.
"""

import json
import time
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select, update
from sqlalchemy.sql.elements import ColumnElement

from headrace.frontend.responses.execution.job import Job
from headrace.frontend.responses.output.response_body import ACTIVE, IN_PROGRESS, ResponseBody
from headrace.frontend.responses.store.conversation_tables import append_items
from headrace.frontend.responses.store.journal import Entry
from headrace.frontend.responses.store.rows import (
    EventBatch,
    StoredResponse,
    insert_batch,
    read_row,
)
from headrace.frontend.responses.store.tables import batches, responses
from headrace.frontend.store.database import Database
from headrace.frontend.store.silence_watch import MAX_WATCHED, SilenceWatch

# Responses that a frontend takes over in one transaction; it tries again soon.
TAKEOVER_LIMIT = 64
SLOW_S = 1.0


class Suspect(NamedTuple):
    """A heartbeat that is not fresh. silent_s: for how long it has been the last one."""

    heartbeat: float
    silent_s: float


class ResponseOwnership:
    """The transactions on responses that some frontend owns."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watch = SilenceWatch()

    async def add(self, owner: str, added: Iterable[EventBatch]) -> set[str]:
        """Store batches of responses; return the ids of those that this owner has lost.

        A lost response is cancelled, deleted, or owned by another frontend.
        """

        def write(connection: Connection) -> set[str]:
            return {
                batch.response_id
                for batch in sorted(added)
                if not self._add(connection, owner, batch)
            }

        return await self._database.write(write)

    def _add(self, connection: Connection, owner: str, batch: EventBatch) -> bool:
        values = {"heartbeat": self._database.now, "status": IN_PROGRESS}
        if not self._update_own(connection, owner, batch.response_id, values):
            return False
        insert_batch(connection, batch)
        return True

    def _update_own(
        self, connection: Connection, owner: str, response_id: str, values: dict[str, Any]
    ) -> bool:
        statement = (
            update(responses)
            .where(responses.c.id == response_id, responses.c.owner == owner)
            .where(responses.c.status.in_(ACTIVE))
            .values(**values)
        )
        return connection.execute(statement).rowcount > 0

    async def renew_heartbeats(self, owner: str, running: Collection[str]) -> set[str]:
        """Renew the heartbeats of running responses; return the ids that this owner still owns."""

        def write(connection: Connection) -> set[str]:
            mine = responses.c.id.in_(running) & (responses.c.owner == owner)
            mine &= responses.c.status.in_(ACTIVE)
            connection.execute(update(responses).where(mine).values(heartbeat=self._database.now))
            return set(connection.execute(select(responses.c.id).where(mine)).scalars())

        return await self._database.write(write)

    async def finish(
        self,
        owner: str,
        last: EventBatch,
        body: ResponseBody,
        before: EventBatch | None = None,
        job: Job | None = None,
    ) -> bool:
        """Store the end of a response; return False if this owner has lost it.

        last: the batch with the end. before: a batch that may or may not be stored yet.
        job: of a response whose conversation gets its items.
        """

        def write(connection: Connection) -> bool:
            values = {"status": body["status"], "body": json.dumps(body), "owner": None}
            if not self._update_own(connection, owner, last.response_id, values):
                return False
            if before is not None:
                insert_batch(connection, before)
            insert_batch(connection, last)
            if job is not None and job.request.conversation is not None:
                added = job.new_items(body)
                append_items(connection, job.request.conversation, added, self._database.now)
            return True

        return await self._database.write(write)

    async def release(self, owner: str) -> None:
        """Release all responses of an owner, so that others may take them over at once."""
        mine = (responses.c.owner == owner) & responses.c.status.in_(ACTIVE)
        statement = update(responses).where(mine).values(owner=None, heartbeat=self._database.now)
        await self._database.write(lambda connection: connection.execute(statement))

    async def take_over(
        self, owner: str, stale_s: float, fingerprints: Collection[str], abandoned_s: float
    ) -> list[StoredResponse]:
        """Become the owner of responses without an owner, or without a heartbeat for `stale_s`.

        fingerprints: of the responses that this frontend can resume. Others are left to frontends
            that can; those without a heartbeat for `abandoned_s` are taken as well, to be failed.
        """
        # A slow database may have delayed heartbeats, too.
        started = time.monotonic()
        # A foreground response cannot be resumed: any frontend may fail it.
        takeable = responses.c.fingerprint.in_(fingerprints) | ~responses.c.background
        suspects = await self._suspects(stale_s, takeable)
        dead = [each for each, found in suspects.items() if found.silent_s >= stale_s]
        abandoned = [each for each, found in suspects.items() if found.silent_s >= abandoned_s]
        stale = (
            responses.c.status.in_(ACTIVE)
            & (responses.c.owner.is_(None) | responses.c.id.in_(dead))
            & (takeable | responses.c.id.in_(abandoned))
        )

        def has_stale(connection: Connection) -> bool:
            return (
                connection.execute(select(responses.c.id).where(stale).limit(1)).first() is not None
            )

        def write(connection: Connection) -> list[StoredResponse]:
            taken = []
            for row in connection.execute(
                select(responses).where(stale).order_by(responses.c.id).limit(TAKEOVER_LIMIT)
            ).all():
                known = suspects.get(row.id)
                if row.owner is not None and (known is None or known.heartbeat != row.heartbeat):
                    continue  # renewed meanwhile
                is_unchanged = (
                    (responses.c.owner == row.owner)
                    & (responses.c.attempts == row.attempts)
                    & (responses.c.heartbeat == row.heartbeat)
                )
                statement = (
                    update(responses)
                    .where(responses.c.id == row.id, is_unchanged, stale)
                    .values(owner=owner, heartbeat=self._database.now, attempts=row.attempts + 1)
                )
                if connection.execute(statement).rowcount:
                    taken.append(read_row(row)._replace(attempts=row.attempts + 1))
            return taken

        # Runs all the time, so it reads first: reading blocks no writer.
        found = await self._database.read(has_stale)
        is_slow = time.monotonic() - started > SLOW_S
        return await self._database.write(write) if found and not is_slow else []

    async def _suspects(self, stale_s: float, first: ColumnElement[bool]) -> dict[str, Suspect]:
        """Return the responses whose heartbeats are not fresh. first: those that matter most."""
        is_suspect = self._watch.is_suspect(self._database.now - responses.c.heartbeat, stale_s)
        query = (
            select(responses.c.id, responses.c.heartbeat)
            .where(responses.c.status.in_(ACTIVE), is_suspect)
            .order_by(first.desc())
        )
        seen = await self._database.read(
            lambda connection: {
                row.id: row.heartbeat for row in connection.execute(query.limit(MAX_WATCHED))
            }
        )
        silent_s = self._watch.look(seen, stale_s)
        return {each: Suspect(seen[each], for_s) for each, for_s in silent_s.items()}

    # Events

    async def events(self, response_id: str, first: int) -> tuple[list[str], bool]:
        """Return the events from number `first` on, and whether the response has ended.

        A deleted response has ended, without events.
        """

        def read(connection: Connection) -> tuple[list[str], bool]:
            this = select(responses.c.status).where(responses.c.id == response_id)
            status = connection.execute(this).scalar()
            start = (
                select(func.max(batches.c.first))
                .where(batches.c.response_id == response_id, batches.c.first <= first)
                .scalar_subquery()
            )
            query = (
                select(batches.c.first, batches.c.events)
                .where(batches.c.response_id == response_id)
                .where(batches.c.first >= func.coalesce(start, 0))
                .order_by(batches.c.number)
            )
            events: list[str] = []
            for row in connection.execute(query):
                stored = json.loads(row.events)
                events += stored[max(0, first - row.first) :]
            return events, status not in ACTIVE

        return await self._database.read(read)

    async def journal(self, response_id: str) -> tuple[list[Entry], int, int]:
        """Return a response's journal, and the numbers of its stored events and batches."""

        def read(connection: Connection) -> tuple[list[Entry], int, int]:
            query = (
                select(batches)
                .where(batches.c.response_id == response_id)
                .order_by(batches.c.number)
            )
            entries: list[Entry] = []
            events = count = 0
            for row in connection.execute(query):
                entries += json.loads(row.journal)
                events = row.first + len(json.loads(row.events))
                count = row.number + 1
            return entries, events, count

        return await self._database.read(read)
