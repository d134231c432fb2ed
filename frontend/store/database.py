"""Run transactions of the database in threads, and map all failures to one error."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, case, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.elements import ColumnElement

from headrace.frontend.errors import Unavailable
from headrace.frontend.limited_log import LimitedLog
from headrace.frontend.store.clock_steps import ClockSteps
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
# Times that are this far ahead of the clock are of a clock that was wrong.
FUTURE_S = 1.0

T = TypeVar("T")


class StoreUnavailable(Unavailable):
    """The database failed or timed out."""

    def __init__(self, message: str = "The store cannot be reached.") -> None:
        super().__init__(message)


class Database:
    """The database of the store. now: its clock, in seconds since 1970, as an SQL expression.

    clock_steps: of that clock and this machine's, as far as `read_clock` has seen them.
    unavailable: what clients are told while it cannot be reached.
    """

    def __init__(self, url: str, unavailable: str = RESPONSES_UNAVAILABLE) -> None:
        self._unavailable = unavailable
        self._engine = make_engine(url)
        self.now = current_time(self._engine)
        self.clock_steps = ClockSteps()
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

    async def read_clock(self) -> float:
        """Return what the database's clock says, and note whether it, or this machine's, was set.

        Raises StoreUnavailable if the database fails.
        """
        now = await self.read(
            lambda connection: float(connection.execute(select(self.now)).scalar_one())
        )
        self.clock_steps.note("the clock of the store", now)
        self.clock_steps.note_own()
        return now

    async def can_tell_ages(self) -> bool:
        """Return whether what seems too old may be deleted: no clock has been set lately.

        Raises StoreUnavailable if the database fails.
        """
        await self.read_clock()
        return self.clock_steps.are_settled()

    def age_order(self, made_at: ColumnElement[float]) -> ColumnElement[float]:
        """Return what rows are ordered by, the oldest first: their times, those in the future as 0.

        A clock that was wrong has dated them; what is made now is newer.
        """
        return case((made_at > self.now + FUTURE_S, 0.0), else_=made_at)

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
