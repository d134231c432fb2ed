"""The tables of the store, and the engine that reaches them.

A response is a row; what has come of it so far, its events and its journal, are batches beside it.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    cast,
    create_engine,
    event,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.exc import DisconnectionError, OperationalError
from sqlalchemy.sql.elements import ColumnElement

log = logging.getLogger(__name__)

# To be counted up with every change of the tables.
VERSION = 2
BUSY_TIMEOUT_S = 10.0
_ADVISORY_LOCK = 0x48656164

metadata = MetaData()

versions = Table("headrace_store", metadata, Column("version", Integer, primary_key=True))

# created_at, heartbeat: seconds since 1970, by the database's clock.
# owner: the frontend that runs it; null when nobody does. attempts: how many have begun to.
# fingerprint: of what it was begun with; only frontends that have the same go on with it.
# job, inputs, body: JSON, see headrace.frontend.responses.execution.job.
responses = Table(
    "headrace_responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("status", String(16), nullable=False),
    Column("background", Boolean, nullable=False),
    Column("owner", String(64)),
    Column("heartbeat", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("previous_id", String(64)),
    Column("job", Text, nullable=False),
    Column("inputs", Text, nullable=False),
    Column("body", Text, nullable=False),
    Index("headrace_responses_created", "created_at"),
    Index("headrace_responses_owner", "owner", "status"),
)

# first: the number of the batch's first event. events, journal: JSON lists.
batches = Table(
    "headrace_response_batches",
    metadata,
    Column(
        "response_id",
        String(64),
        ForeignKey("headrace_responses.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("first", BigInteger, nullable=False),
    Column("events", Text, nullable=False),
    Column("journal", Text, nullable=False),
)


def make_engine(url: str) -> Engine:
    """The engine; connects to nothing yet."""
    if url.startswith("sqlite"):
        engine = create_engine(
            url, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_size=4
        )
        _watch_file(engine, store_file(url) or Path())
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    options = f"-c statement_timeout={int(BUSY_TIMEOUT_S * 1000)}"
    return create_engine(
        url,
        hide_parameters=True,
        pool_size=4,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 5, "options": options},
    )


def store_file(url: str) -> Path | None:
    """The file of a SQLite database."""
    return Path(url.partition(":///")[2]) if url.startswith("sqlite") else None


def identity(path: Path | None) -> object:
    """Another one for each file that there is under a path one after the other."""
    if path is None:
        return "a server"
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _watch_file(engine: Engine, path: Path) -> None:
    """Connections to a file that has been removed work on as if nothing had happened, each
    frontend's on a store that only it can see: they are replaced."""

    def create(*_: Any) -> None:
        _create_file(path)

    def note(_connection: Any, record: Any) -> None:
        record.info["file"] = identity(path)

    def check(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info["file"] != identity(path):
            raise DisconnectionError

    event.listen(engine, "do_connect", create)
    event.listen(engine, "connect", note)
    event.listen(engine, "checkout", check)


def _create_file(path: Path) -> None:
    """Conversations are nobody else's to read. What fails here fails again when it is opened."""
    with contextlib.suppress(OSError):
        path.touch(mode=0o600)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # Transactions are begun by us, see _begin_sqlite.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """A transaction that reads and then writes must take the lock at once: it could not be given
    it later, should another have written meanwhile."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; committed at the end, rolled back on an error."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


def create_tables(engine: Engine) -> None:
    """Make the tables that are missing. Any number of frontends may do so at once.

    ValueError if the tables are those of another version of this server.
    """
    with _retried(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        metadata.create_all(connection)
        found = connection.execute(select(versions.c.version)).scalar()
        if found is None:
            connection.execute(insert(versions).values(version=VERSION))
        elif found != VERSION:
            raise ValueError(f"the store has version {found}, this server needs {VERSION}")


@contextlib.contextmanager
def _retried(engine: Engine) -> Iterator[Connection]:
    """SQLite does not wait for the lock where WAL mode is switched on."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection = engine.connect()
            break
        except OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    with connection.execution_options(writes=True), connection.begin():
        yield connection


def now(engine: Engine) -> ColumnElement[float]:
    """The database's own clock, as all frontends share it: seconds since 1970."""
    if engine.dialect.name == "sqlite":
        return (func.julianday("now") - 2440587.5) * 86400.0
    return cast(func.extract("epoch", func.clock_timestamp()), Float)
