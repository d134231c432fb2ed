"""Connect to the store's database, define what all its tables share, and create them."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    cast,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import DisconnectionError, OperationalError
from sqlalchemy.sql.elements import ColumnElement

# Must be raised with every change of a table; a new table is created beside the others.
VERSION = 3
BUSY_TIMEOUT_S = 10.0
_ADVISORY_LOCK = 0x48656164

metadata = MetaData()


def tenant_column() -> Column[str]:
    """Return a new column: the tenant that a row belongs to; "" where the server has no keys."""
    return Column("tenant", String(64), nullable=False, server_default="")


# Version 3 gave each of these tables a tenant, and an index that begins with these columns.
_WITH_TENANT = {
    "headrace_responses": "tenant, created_at",
    "headrace_conversations": "tenant, used_at",
    "headrace_files": "volume, tenant, created_at, id",
    "headrace_batches": "volume, tenant, created_at, id",
}

versions = Table("headrace_store", metadata, Column("version", Integer, primary_key=True))


def make_engine(url: str) -> Engine:
    """Return the engine; it does not connect yet."""
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
    """Return the file of a SQLite database; None for another database."""
    return Path(url.partition(":///")[2]) if url.startswith("sqlite") else None


def file_identity(path: Path | None) -> object:
    """Return what differs between the files that lie at a path one after another."""
    if path is None:
        return "a server"
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _watch_file(engine: Engine, path: Path) -> None:
    """Replace connections to a file that has been removed or replaced.

    They would continue to work, each frontend's on a store that only it can see.
    """

    def create(*_: Any) -> None:
        _create_file(path)

    def note(_connection: Any, record: Any) -> None:
        record.info["file"] = file_identity(path)

    def check(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info["file"] != file_identity(path):
            raise DisconnectionError

    event.listen(engine, "do_connect", create)
    event.listen(engine, "connect", note)
    event.listen(engine, "checkout", check)


def _create_file(path: Path) -> None:
    """Create the file, readable by its owner only; an error shows again when it is opened."""
    with contextlib.suppress(OSError):
        path.touch(mode=0o600)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # _begin_sqlite begins transactions.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction; one that writes takes the lock at once.

    A transaction that reads first could not get the lock later if another had written meanwhile.
    """
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextlib.contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """Run a transaction that writes; commit it at the end, roll it back on an error."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


def create_tables(engine: Engine) -> None:
    """Create the tables that are missing; safe to call from several frontends at once.

    Tables of version 2 are changed; what is in them belongs to no key's tenant. Frontends that know
    version 2 can continue to use them.

    Raises ValueError if the tables are of another version.
    """
    with _retry_locked(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        metadata.create_all(connection)
        found = connection.execute(select(versions.c.version)).scalar()
        if found is None:
            connection.execute(insert(versions).values(version=VERSION))
        elif found == 2:
            _add_tenants(connection)
        elif found != VERSION:
            raise ValueError(f"the store has version {found}, this server needs {VERSION}")


def _add_tenants(connection: Connection) -> None:
    """Change tables of version 2 to version 3, whichever of them there are."""
    found = inspect(connection)
    for table in set(found.get_table_names()) & set(_WITH_TENANT):
        if all(column["name"] != "tenant" for column in found.get_columns(table)):
            added = "ADD COLUMN tenant VARCHAR(64) DEFAULT '' NOT NULL"
            connection.execute(text(f"ALTER TABLE {table} {added}"))
            index = f"{table}_tenant ON {table} ({_WITH_TENANT[table]})"
            connection.execute(text(f"CREATE INDEX {index}"))
    connection.execute(update(versions).values(version=VERSION))


@contextlib.contextmanager
def _retry_locked(engine: Engine) -> Iterator[Connection]:
    """Run a write transaction; retry while SQLite is locked.

    SQLite does not wait for the lock when a connection switches to WAL mode.
    """
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


def tenants_of(table: Table, connection: Connection) -> list[str]:
    """Return the tenants that have rows in a table."""
    return list(connection.execute(select(table.c.tenant).distinct()).scalars())


def current_time(engine: Engine) -> ColumnElement[float]:
    """Return the database's clock, which all frontends share, in seconds since 1970."""
    if engine.dialect.name == "sqlite":
        return (func.julianday("now") - 2440587.5) * 86400.0
    return cast(func.extract("epoch", func.clock_timestamp()), Float)
