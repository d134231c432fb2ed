"""Create, read, list, cancel and prune batches, for clients; each method is one transaction."""

import json
import secrets
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from headrace.frontend.batches.batch import (
    ACTIVE,
    CANCELLING,
    FINALIZING,
    VALIDATING,
    Progress,
    StoredBatch,
    read_batch,
)
from headrace.frontend.batches.tables import batches
from headrace.frontend.errors import ApiError, BadRequest, Conflict, TooManyRequests
from headrace.frontend.files.folder import is_safe_id
from headrace.frontend.store.database import Database

# Batches of one tenant that have not ended; each costs its owner an open file and a little memory.
MAX_ACTIVE = 1000
PRUNE_BATCH = 200


class BatchNotFound(ApiError):
    status = 404
    kind = "invalid_request_error"

    def __init__(self) -> None:
        super().__init__("batch_id: there is no such batch.", "batch_id")


def new_batch_id() -> str:
    """Return a new id of a batch."""
    return f"batch_{secrets.token_hex(16)}"


class BatchPage(NamedTuple):
    """Batches, the newest first, and whether more follow."""

    batches: list[StoredBatch]
    has_more: bool


class BatchStore:
    """The batches whose files lie in one folder. volume: that folder's id.

    A batch of another tenant is none: its row is not looked for.
    """

    def __init__(self, database: Database, volume: str, max_age_s: float) -> None:
        self._database, self._volume, self._max_age_s = database, volume, max_age_s
        self._mine = batches.c.volume == volume

    def _of(self, tenant: str) -> ColumnElement[bool]:
        return self._mine & (batches.c.tenant == tenant)

    async def create(
        self, batch_id: str, tenant: str, options: dict[str, Any], window_s: float
    ) -> StoredBatch:
        """Store a new batch, which some frontend will run. Raises TooManyRequests."""
        now = self._database.now

        def write(connection: Connection) -> StoredBatch:
            count = select(func.count()).where(self._of(tenant), batches.c.status.in_(ACTIVE))
            if (connection.execute(count).scalar() or 0) >= MAX_ACTIVE:
                raise TooManyRequests(f"{MAX_ACTIVE} batches have not ended; try again later.")
            statement = insert(batches).values(
                id=batch_id,
                volume=self._volume,
                tenant=tenant,
                status=VALIDATING,
                created_at=now,
                expires_at=now + window_s,
                options=json.dumps(options),
                heartbeat=now,
                runs=0,
                fruitless=0,
                in_flight=0,
                total=0,
                **Progress()._asdict(),
            )
            connection.execute(statement)
            return self._read(connection, tenant, batch_id)

        return await self._database.write(write)

    async def get(self, tenant: str, batch_id: str) -> StoredBatch:
        """Return a batch. Raises BatchNotFound if there is none."""
        if not is_safe_id(batch_id):
            raise BatchNotFound
        return await self._database.read(
            lambda connection: self._read(connection, tenant, batch_id)
        )

    def _read(self, connection: Connection, tenant: str, batch_id: str) -> StoredBatch:
        query = select(batches).where(batches.c.id == batch_id, self._of(tenant))
        row = connection.execute(query).first()
        if row is None:
            raise BatchNotFound
        return read_batch(row)

    async def page(self, tenant: str, limit: int, after: str | None) -> BatchPage:
        """Return a page of batches. after: the last one of the page before.

        Raises BadRequest if there is no such batch.
        """

        def read(connection: Connection) -> BatchPage:
            query = select(batches).where(self._of(tenant))
            if after is not None:
                query = query.where(self._is_before(connection, tenant, after))
            order = (batches.c.created_at.desc(), batches.c.id.desc())
            rows = connection.execute(query.order_by(*order).limit(limit + 1)).all()
            return BatchPage([read_batch(row) for row in rows[:limit]], len(rows) > limit)

        return await self._database.read(read)

    def _is_before(self, connection: Connection, tenant: str, after: str) -> Any:
        try:
            last = self._read(connection, tenant, after)
        except BatchNotFound as error:
            raise BadRequest("after: there is no such batch.", "after") from error
        created = batches.c.created_at
        same = and_(created == last.created_at, batches.c.id < last.batch_id)
        return or_(created < last.created_at, same)

    async def cancel(self, tenant: str, batch_id: str) -> StoredBatch:
        """Have a batch end; its owner, or another frontend, keeps what is done.

        Raises BatchNotFound, or Conflict if it has ended already.
        """
        await self.get(tenant, batch_id)
        this = (batches.c.id == batch_id) & self._of(tenant)

        def write(connection: Connection) -> StoredBatch:
            now = self._database.now
            running = batches.c.status.in_([each for each in ACTIVE if each != FINALIZING])
            values = {
                "status": CANCELLING,
                "cancelling_at": func.coalesce(batches.c.cancelling_at, now),
            }
            connection.execute(update(batches).where(this, running).values(**values))
            stored = self._read(connection, tenant, batch_id)
            if stored.status != CANCELLING:
                raise Conflict(f"The batch is {stored.status}: it cannot be cancelled.", "batch_id")
            return stored

        return await self._database.write(write)

    async def count_by_status(self) -> dict[str, int]:
        """Return how many batches there are of each status."""
        query = select(batches.c.status, func.count()).where(self._mine).group_by(batches.c.status)
        return await self._database.read(
            lambda connection: {row[0]: int(row[1]) for row in connection.execute(query)}
        )

    async def ended(self, batch_ids: list[str]) -> set[str]:
        """Return those of these batches that have ended, or are not stored."""
        active = select(batches.c.id).where(
            batches.c.id.in_(batch_ids), batches.c.status.in_(ACTIVE)
        )
        running = await self._database.read(
            lambda connection: set(connection.execute(active).scalars())
        )
        return set(batch_ids) - running

    async def can_tell_ages(self) -> bool:
        """Return whether what seems too old may be deleted: no clock has been set lately."""
        return await self._database.can_tell_ages()

    async def prune(self) -> None:
        """Delete batches that have ended and are too old."""
        old = batches.c.created_at < self._database.now - self._max_age_s
        query = select(batches.c.id).where(self._mine, batches.c.status.not_in(ACTIVE), old)
        statement = delete(batches).where(batches.c.id.in_(query.limit(PRUNE_BATCH)))
        while await self._database.write(
            lambda connection: connection.execute(statement).rowcount > 0
        ):
            pass
