"""Own running batches in the store: claim, renew, store progress, end, release.

Only its owner may write a batch's progress and end; an owner learns from its writes what it has
lost. Each method is one transaction.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import Connection, func, select, update
from sqlalchemy.sql.elements import ColumnElement

from headrace.frontend.batches.batch import ACTIVE, Progress, StoredBatch, read_batch
from headrace.frontend.batches.tables import batches
from headrace.frontend.store.database import Database
from headrace.frontend.store.silence_watch import MAX_WATCHED, SilenceWatch

# Batches that are looked at for one claim; others have their turn when these have ended.
CLAIM_LIMIT = 32
SLOW_S = 1.0


class BatchOwnership:
    """The transactions of one frontend on batches that it owns. owner: its name."""

    def __init__(self, database: Database, volume: str, owner: str) -> None:
        self._database, self._owner = database, owner
        self._mine = batches.c.volume == volume
        self._watch = SilenceWatch()

    async def claim(
        self,
        count: int,
        stale_s: float,
        can_run: Callable[[StoredBatch], bool],
        without: Collection[str] = (),
    ) -> list[StoredBatch]:
        """Become the owner of at most `count` batches without one.

        The oldest of each tenant come first, then the second ones, and so on.

        stale_s: an owner without a heartbeat for so long has died.
        can_run: whether this frontend can run it; others are left to frontends that can.
        without: tenants whose batches must wait.
        """
        active = self._mine & batches.c.status.in_(ACTIVE)
        # A slow database may have delayed others' heartbeats, too.
        started = time.monotonic()
        dead = await self._dead(active, stale_s)
        free = batches.c.owner.is_(None) | batches.c.id.in_(list(dead))
        claimable = active & free & batches.c.tenant.not_in(without)
        order = (batches.c.created_at, batches.c.id)
        turn = func.row_number().over(partition_by=batches.c.tenant, order_by=order)
        query = select(batches).where(claimable).order_by(turn, *order).limit(CLAIM_LIMIT)

        def has_any(connection: Connection) -> bool:
            found = select(batches.c.id).where(claimable).limit(1)
            return connection.execute(found).first() is not None

        def write(connection: Connection) -> list[StoredBatch]:
            taken: list[StoredBatch] = []
            for row in connection.execute(query).all():
                found = read_batch(row)
                if row.owner is not None and dead.get(row.id) != row.heartbeat:
                    continue  # renewed meanwhile
                if len(taken) < count and can_run(found):
                    fruitless = row.fruitless + (row.owner is not None)
                    values = {
                        "owner": self._owner,
                        "heartbeat": self._database.now,
                        "runs": row.runs + 1,
                        "fruitless": fruitless,
                    }
                    unchanged = (batches.c.id == row.id) & (batches.c.runs == row.runs)
                    unchanged &= batches.c.heartbeat == row.heartbeat
                    statement = update(batches).where(unchanged, claimable).values(**values)
                    if connection.execute(statement).rowcount:
                        taken.append(found._replace(runs=row.runs + 1, fruitless=fruitless))
            return taken

        # Runs all the time, so it reads first: reading blocks no writer.
        found = await self._database.read(has_any)
        is_slow = time.monotonic() - started > SLOW_S
        return await self._database.write(write) if found and not is_slow else []

    async def _dead(self, active: ColumnElement[bool], stale_s: float) -> dict[str, float]:
        """Return the last heartbeats of the batches whose owners have died."""
        owned = active & batches.c.owner.is_not(None)
        is_suspect = self._watch.is_suspect(self._database.now - batches.c.heartbeat, stale_s)
        query = select(batches.c.id, batches.c.heartbeat).where(owned, is_suspect)
        seen = await self._database.read(
            lambda connection: {
                row.id: row.heartbeat for row in connection.execute(query.limit(MAX_WATCHED))
            }
        )
        silent_s = self._watch.look(seen, stale_s)
        return {each: seen[each] for each, for_s in silent_s.items() if for_s >= stale_s}

    async def window_left_s(self, expires_at: float) -> float:
        """Return how long a batch may still run.

        While it is not known whether a clock that was set is right, a batch does not expire.
        """
        now = await self._database.read_clock()
        return max(expires_at - now, self._database.clock_steps.settles_in_s())

    async def renew(self, in_flight: Mapping[str, int]) -> dict[str, StoredBatch]:
        """Renew the heartbeats of running batches; return those that are still owned here.

        in_flight: by batch, how many of its lines run now.
        """

        def write(connection: Connection) -> dict[str, StoredBatch]:
            for batch_id, lines in in_flight.items():
                values = {"heartbeat": self._database.now, "in_flight": lines}
                connection.execute(update(batches).where(self._own(batch_id)).values(**values))
            own = batches.c.id.in_(list(in_flight)) & (batches.c.owner == self._owner)
            rows = connection.execute(select(batches).where(own, batches.c.status.in_(ACTIVE)))
            return {row.id: read_batch(row) for row in rows}

        return await self._database.write(write)

    async def update(self, batch_id: str, **values: Any) -> bool:
        """Store values of a batch; return False if this frontend has lost it.

        Times are given as True, for now; lists as they are.
        """

        changed = {name: self._stored(value) for name, value in values.items()}
        statement = update(batches).where(self._own(batch_id)).values(**changed)
        return await self._database.write(
            lambda connection: connection.execute(statement).rowcount > 0
        )

    async def move(self, batch_id: str, before: str, after: str, **values: Any) -> bool:
        """Store another status, with `values` as for `update`; return False if the batch has been
        lost, or has another status than `before`."""

        changed = {name: self._stored(value) for name, value in values.items()}
        this = self._own(batch_id) & (batches.c.status == before)
        statement = update(batches).where(this).values(status=after, **changed)
        return await self._database.write(
            lambda connection: connection.execute(statement).rowcount > 0
        )

    async def store_progress(self, batch_id: str, progress: Progress) -> bool:
        """Store what is done; return False if this frontend has lost the batch."""
        return await self.update(batch_id, fruitless=0, **progress._asdict())

    async def release(self, batch_id: str) -> None:
        """Leave a batch to any frontend, which may take it at once."""
        values = {"owner": None, "heartbeat": self._database.now, "in_flight": 0}
        statement = update(batches).where(self._own(batch_id)).values(**values)
        await self._database.write(lambda connection: connection.execute(statement))

    async def others(self, stale_s: float) -> tuple[int, int]:
        """Return how many other frontends run batches now, and how many lines of them."""
        fresh = (self._database.now - batches.c.heartbeat) <= stale_s
        query = select(
            func.count(func.distinct(batches.c.owner)),
            func.coalesce(func.sum(batches.c.in_flight), 0),
        ).where(
            self._mine,
            batches.c.status.in_(ACTIVE),
            batches.c.owner.is_not(None),
            batches.c.owner != self._owner,
            fresh,
        )

        def read(connection: Connection) -> tuple[int, int]:
            owners, lines = connection.execute(query).one()
            return int(owners), int(lines)

        return await self._database.read(read)

    def _stored(self, value: Any) -> Any:
        if value is True:
            return self._database.now
        return json.dumps(value) if isinstance(value, list) else value

    def _own(self, batch_id: str) -> Any:
        own = (batches.c.id == batch_id) & (batches.c.owner == self._owner)
        return own & batches.c.status.in_(ACTIVE)
