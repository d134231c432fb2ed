"""Run transactions of the database in threads, and map all failures to one error."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from headrace.frontend.errors import Unavailable
from headrace.frontend.limited_log import LimitedLog
from headrace.frontend.store.engine import (
    create_tables,
    current_time,
    file_identity,
    make_engine,
    store_file,
    write_transaction,
)

log = logging.getLogger("headrace.frontend.store")
_limited = LimitedLog(log)

RESPONSES_UNAVAILABLE = (
    "The store of responses cannot be reached. Requests with store false do not need it."
)
_THREADS = 4
# After this long a request stops waiting for a database that does not answer, or for its queue: the
# threads may be stuck, but no request is.
DEADLINE_S = 20.0
FINISH_S = 2.0

T = TypeVar("T")


class StoreUnavailable(Unavailable):
    """The database failed or timed out."""

    def __init__(self, message: str = "The store cannot be reached.") -> None:
        super().__init__(message)


class Database:
    """The database of the store. now: its clock, in seconds since 1970, as an SQL expression.

    unavailable: what clients are told while it cannot be reached.
    """

    def __init__(self, url: str, unavailable: str = RESPONSES_UNAVAILABLE) -> None:
        self._unavailable = unavailable
        self._engine = make_engine(url)
        self.now = current_time(self._engine)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._file = store_file(url)
        # The file with the tables: a file may be removed and replaced by another.
        self._initialized_file: object = None
        # Serializes this frontend's write transactions, so that they neither wait for each other in
        # the database nor deadlock there.
        self._write_lock = asyncio.Lock()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that may write, and return its result.

        Raises StoreUnavailable if the database fails; the transaction may then be committed or not.
        """

        def do() -> T:
            self._ensure_tables()
            with write_transaction(self._engine) as connection:
                return work(connection)

        async with self._time_limit(), self._write_lock:
            return await self._in_thread(do)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, which must only read and blocks no writer, and return its result.

        Raises StoreUnavailable if the database fails.
        """

        def do() -> T:
            self._ensure_tables()
            with self._engine.connect() as connection:
                return work(connection)

        async with self._time_limit():
            return await self._in_thread(do)

    def _ensure_tables(self) -> None:
        if self._initialized_file is None or self._initialized_file != file_identity(self._file):
            create_tables(self._engine)
            self._initialized_file = file_identity(self._file)

    async def _in_thread(self, do: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, do)
        except (SQLAlchemyError, OSError, ValueError) as error:
            self._initialized_file = None
            _limited.warning(f"the store failed: {getattr(error, 'orig', None) or error}")
            raise StoreUnavailable(self._unavailable) from error

    @contextlib.asynccontextmanager
    async def _time_limit(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(DEADLINE_S):
                yield
        except TimeoutError as error:
            _limited.warning("the store timed out")
            raise StoreUnavailable(self._unavailable) from error

    async def finish(self) -> None:
        """Wait a moment for transactions whose callers have gone, then close."""

        def wait() -> None:
            self._threads.shutdown(cancel_futures=True)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S):
                await asyncio.to_thread(wait)
        self.close()

    def close(self) -> None:
        """Drop queued transactions and close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()
