"""Create, list, read, delete and prune files: rows in the store's database, bytes in the folder."""

import asyncio
import contextlib
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, func, insert, or_, select
from sqlalchemy.sql.elements import ColumnElement

from headrace.frontend.errors import ApiError, BadRequest, Conflict
from headrace.frontend.files.folder import FileFolder, is_safe_id, new_file_id
from headrace.frontend.files.tables import files
from headrace.frontend.store.database import Database

# Rows that are deleted in one transaction.
PRUNE_BATCH = 200


class FileNotFound(ApiError):
    status = 404
    kind = "invalid_request_error"

    def __init__(self, param: str = "file_id") -> None:
        super().__init__(f"{param}: there is no such file.", param)


class FileLimits(NamedTuple):
    """Limits of the store. total_bytes, max_files: of all files of one tenant. max_age_s: of each.

    A tenant that fills what it has leaves others theirs.
    """

    file_bytes: int
    total_bytes: int
    max_files: int
    max_age_s: float


class StoredFile(NamedTuple):
    """A file. expires_at: None if only the store's own limit of age ends it."""

    file_id: str
    created_at: float
    expires_at: float | None
    size: int
    purpose: str
    filename: str

    def body(self) -> dict[str, Any]:
        """Return the file as clients see it."""
        return {
            "id": self.file_id,
            "object": "file",
            "bytes": self.size,
            "created_at": int(self.created_at),
            "expires_at": None if self.expires_at is None else int(self.expires_at),
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class FilePage(NamedTuple):
    """Files in the asked order, and whether more follow."""

    files: list[StoredFile]
    has_more: bool


_COLUMNS = (
    files.c.id,
    files.c.created_at,
    files.c.expires_at,
    files.c.bytes,
    files.c.purpose,
    files.c.filename,
)


class FileStore:
    """The files of one folder. A file of another tenant is none: its row is not looked for."""

    def __init__(self, database: Database, folder: FileFolder, limits: FileLimits) -> None:
        self._database, self.folder, self.limits = database, folder, limits
        self._mine = files.c.volume == folder.volume
        self._unexpired = or_(files.c.expires_at.is_(None), files.c.expires_at > database.now)

    def _of(self, tenant: str) -> ColumnElement[bool]:
        return self._mine & (files.c.tenant == tenant)

    async def check_room(self, tenant: str, size: int) -> None:
        """Check that a file of this size may be added. Raises Conflict if the tenant's are full."""

        def read(connection: Connection) -> tuple[int, int]:
            query = select(func.count(), func.coalesce(func.sum(files.c.bytes), 0))
            count, total = connection.execute(query.where(self._of(tenant))).one()
            return int(count), int(total)

        count, total = await self._database.read(read)
        total += await asyncio.to_thread(self.folder.upload_bytes, tenant)
        if count >= self.limits.max_files:
            raise Conflict(f"The server keeps at most {self.limits.max_files} files; delete some.")
        if total + size > self.limits.total_bytes:
            raise Conflict(
                f"The server keeps at most {self.limits.total_bytes} bytes in files; delete some."
            )

    async def add(
        self,
        upload: Path,
        *,
        tenant: str,
        purpose: str,
        filename: str,
        expires_after_s: float | None,
        file_id: str | None = None,
    ) -> StoredFile:
        """Add a complete file that lies in the folder's uploads; it is on the disk afterwards.

        file_id: None for a new one; a file that has it already is replaced. If its row cannot be
            written, the bytes are removed some time later.
        """
        file_id = file_id or new_file_id()
        size = await asyncio.to_thread(self.folder.publish, upload, file_id)
        now = self._database.now

        def write(connection: Connection) -> StoredFile:
            statement = insert(files).values(
                id=file_id,
                volume=self.folder.volume,
                tenant=tenant,
                created_at=now,
                expires_at=None if expires_after_s is None else now + expires_after_s,
                bytes=size,
                purpose=purpose,
                filename=filename,
            )
            connection.execute(delete(files).where(files.c.id == file_id))
            connection.execute(statement)
            query = select(*_COLUMNS).where(files.c.id == file_id)
            return StoredFile(*connection.execute(query).one())

        return await self._database.write(write)

    async def get(self, tenant: str, file_id: str, param: str = "file_id") -> StoredFile:
        """Return a file. Raises FileNotFound if there is none."""
        if not is_safe_id(file_id):
            raise FileNotFound(param)
        found = await self._database.read(
            lambda connection: self._find(connection, tenant, file_id)
        )
        if found is None:
            raise FileNotFound(param)
        return found

    def _find(self, connection: Connection, tenant: str, file_id: str) -> StoredFile | None:
        this = self._of(tenant) & (files.c.id == file_id)
        query = select(*_COLUMNS).where(this, self._unexpired)
        row = connection.execute(query).first()
        return None if row is None else StoredFile(*row)

    async def page(
        self, tenant: str, *, limit: int, after: str | None, ascending: bool, purpose: str | None
    ) -> FilePage:
        """Return a page of files, by the times of their creation.

        after: the last file of the page before. Raises BadRequest if it is not there.
        """
        key = (files.c.created_at, files.c.id)

        def read(connection: Connection) -> FilePage:
            query = select(*_COLUMNS).where(self._of(tenant), self._unexpired)
            if purpose is not None:
                query = query.where(files.c.purpose == purpose)
            if after is not None:
                last = self._find(connection, tenant, after) if is_safe_id(after) else None
                if last is None:
                    raise BadRequest("after: there is no such file.", "after")
                later = or_(
                    key[0] > last.created_at, and_(key[0] == last.created_at, key[1] > after)
                )
                earlier = or_(
                    key[0] < last.created_at, and_(key[0] == last.created_at, key[1] < after)
                )
                query = query.where(later if ascending else earlier)
            order = key if ascending else tuple(column.desc() for column in key)
            rows = connection.execute(query.order_by(*order).limit(limit + 1)).all()
            return FilePage([StoredFile(*row) for row in rows[:limit]], len(rows) > limit)

        return await self._database.read(read)

    async def delete(self, tenant: str, file_id: str) -> None:
        """Delete a file. Raises FileNotFound if there is none."""
        await self.get(tenant, file_id)
        statement = delete(files).where(files.c.id == file_id, self._of(tenant))
        deleted = await self._database.write(
            lambda connection: connection.execute(statement).rowcount
        )
        await asyncio.to_thread(self.folder.remove, file_id)
        if not deleted:
            raise FileNotFound

    # Prune

    async def prune(self) -> None:
        """Delete files that have expired or are too old, and bytes without a row."""
        over = or_(
            and_(files.c.expires_at.is_not(None), files.c.expires_at <= self._database.now),
            files.c.created_at < self._database.now - self.limits.max_age_s,
        )
        query = select(files.c.id).where(self._mine, over).limit(PRUNE_BATCH)

        def write(connection: Connection) -> list[str]:
            ids = [str(file_id) for file_id in connection.execute(query).scalars()]
            connection.execute(delete(files).where(files.c.id.in_(ids)))
            return ids

        while ids := await self._database.write(write):
            for file_id in ids:
                await asyncio.to_thread(self.folder.remove, file_id)
        await self._remove_orphans()

    async def _remove_orphans(self) -> None:
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self.folder.remove_old_uploads)
            old = await asyncio.to_thread(self.folder.old_ids)
            for start in range(0, len(old), PRUNE_BATCH):
                part = old[start : start + PRUNE_BATCH]
                known = await self._database.read(partial(_known, part))
                for file_id in set(part) - known:
                    await asyncio.to_thread(self.folder.remove, file_id)


def _known(file_ids: list[str], connection: Connection) -> set[str]:
    """Return those of these files that have rows."""
    query = select(files.c.id).where(files.c.id.in_(file_ids))
    return set(connection.execute(query).scalars())
