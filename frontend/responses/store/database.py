"""The database: one transaction at a time in a thread, and one error for all that can fail."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from headrace.frontend.errors import Unavailable
from headrace.frontend.responses.store.tables import (
    create_tables,
    identity,
    make_engine,
    now,
    store_file,
    writing,
)

log = logging.getLogger(__name__)

_THREADS = 4
# A database that does not answer at all, or whose queue is as long, is not waited for: the threads
# are stuck, but no request is.
DEADLINE_S = 20.0

T = TypeVar("T")


class StoreUnavailable(Unavailable):
    def __init__(self) -> None:
        super().__init__(
            "The store of responses cannot be reached. Requests with store false do not need it."
        )


class Database:
    """now: its clock, seconds since 1970."""

    def __init__(self, url: str) -> None:
        self._engine = make_engine(url)
        self.now = now(self._engine)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._file = store_file(url)
        # Where the tables have been made: a file may be removed, and another take its place.
        self._tables_in: object = None
        # One frontend's transactions need not wait in the database for each other, nor meet there
        # in a deadlock.
        self._writing = asyncio.Lock()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, in a transaction that may write. StoreUnavailable if the database
        fails; whether it is written is known only if it does not fail."""

        def do() -> T:
            self._ensure_tables()
            with writing(self._engine) as connection:
                return work(connection)

        async with _bounded(), self._writing:
            return await self._in_thread(do)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, which only reads, and keeps nobody from writing."""

        def do() -> T:
            self._ensure_tables()
            with self._engine.connect() as connection:
                return work(connection)

        async with _bounded():
            return await self._in_thread(do)

    def _ensure_tables(self) -> None:
        if self._tables_in is None or self._tables_in != identity(self._file):
            create_tables(self._engine)
            self._tables_in = identity(self._file)

    async def _in_thread(self, do: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, do)
        except (SQLAlchemyError, OSError, ValueError) as error:
            self._tables_in = None
            log.error("the store of responses has failed: %s", error)
            raise StoreUnavailable from error

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()


@contextlib.asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield
    except TimeoutError as error:
        log.error("the store of responses does not answer")
        raise StoreUnavailable from error
