"""A store of version 2, whose rows had no tenants, is changed in place."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, text

from headrace.frontend.batches.batch_store import BatchNotFound, BatchStore
from headrace.frontend.files.file_store import FileLimits, FileNotFound, FileStore
from headrace.frontend.files.folder import FileFolder
from headrace.frontend.responses.store.conversation_store import ConversationStore
from headrace.frontend.responses.store.response_store import ResponseStore
from headrace.frontend.store.database import Database
from headrace.frontend.store.engine import VERSION, metadata, versions

RESPONSE, CONVERSATION = f"resp_{'1' * 32}", f"conv_{'2' * 32}"
FILE, BATCH = f"file-{'3' * 32}", f"batch_{'4' * 32}"
NOW = 1_700_000_000.0


def rows(volume: str) -> dict[str, dict[str, Any]]:
    body = {"id": RESPONSE, "status": "completed", "output": []}
    counts = ("total", "completed", "failed", "runs", "fruitless", "in_flight")
    tokens = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
    options = {"endpoint": "/v1/completions", "input_file_id": FILE, "completion_window": "24h"}
    return {
        "headrace_responses": {
            "id": RESPONSE,
            "created_at": NOW,
            "status": "completed",
            "background": False,
            "heartbeat": NOW,
            "attempts": 1,
            "fingerprint": "f",
            "job": "{}",
            "inputs": "[]",
            "body": json.dumps(body),
        },
        "headrace_conversations": {
            "id": CONVERSATION,
            "created_at": NOW,
            "used_at": NOW,
            "metadata": "{}",
        },
        "headrace_files": {
            "id": FILE,
            "volume": volume,
            "created_at": NOW,
            "bytes": 1,
            "purpose": "batch",
            "filename": "x",
        },
        "headrace_batches": {
            "id": BATCH,
            "volume": volume,
            "status": "completed",
            "created_at": NOW,
            "expires_at": NOW,
            "options": json.dumps({**options, "metadata": None}),
            "heartbeat": NOW,
            **dict.fromkeys((*counts, *tokens), 0),
        },
    }


def _insert(connection: Any, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(row)
    values = ", ".join(f":{name}" for name in row)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)


@pytest.fixture
def folder(tmp_path: Any) -> FileFolder:
    return FileFolder(tmp_path / "files")


@pytest.fixture
def old_store(store_url: str, folder: FileFolder) -> Iterator[str]:
    """The tables as they were: without the column, without its indexes."""
    engine = create_engine(store_url)
    with engine.begin() as connection:
        metadata.create_all(connection)
        for table in rows(""):
            connection.execute(text(f"DROP INDEX {table}_tenant"))
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN tenant"))
        connection.execute(versions.insert().values(version=2))
        for table, row in rows(folder.volume).items():
            _insert(connection, table, row)
    yield store_url
    engine.dispose()


async def test_old_rows_belong_to_no_keys_tenant(old_store: str, folder: FileFolder) -> None:
    databases = [Database(old_store) for _ in range(2)]  # two frontends
    responses = ResponseStore(databases[0], 1e12, 10)
    conversations = ConversationStore(databases[1], 1e12, 10)
    files = FileStore(databases[1], folder, FileLimits(10, 10, 10, 1e12))
    batches = BatchStore(databases[0], folder.volume, 1e12)
    assert await responses.get(RESPONSE, "") is not None
    assert await conversations.get(CONVERSATION, "") is not None
    assert (await files.get("", FILE)).file_id == FILE
    assert (await batches.get("", BATCH)).tenant == ""
    for tenant in ("ann", "None"):
        assert await responses.get(RESPONSE, tenant) is None
        assert await conversations.get(CONVERSATION, tenant) is None
        with pytest.raises(FileNotFound):
            await files.get(tenant, FILE)
        with pytest.raises(BatchNotFound):
            await batches.get(tenant, BATCH)
    for database in databases:
        database.close()


async def test_the_indexes_are_those_of_a_new_store(old_store: str) -> None:
    database = Database(old_store)
    await database.read(lambda connection: None)
    engine = create_engine(old_store)
    found = inspect(engine)
    for table in rows(""):
        expected = {
            index.name: [column.name for column in index.columns]
            for index in metadata.tables[table].indexes
        }
        assert {index["name"]: index["column_names"] for index in found.get_indexes(table)} == (
            expected
        )
    with engine.connect() as connection:
        assert connection.execute(versions.select()).scalar() == VERSION
    engine.dispose()
    database.close()


async def test_a_frontend_of_version_2_can_still_write(old_store: str, folder: FileFolder) -> None:
    """In a rolling restart some frontends are older than the tables for a while."""
    database = Database(old_store)
    late = {**rows(folder.volume)["headrace_conversations"], "id": f"conv_{'9' * 32}"}
    await database.write(lambda connection: _insert(connection, "headrace_conversations", late))
    assert await ConversationStore(database, 1e12, 10).get(late["id"], "") is not None
    database.close()
