"""A file of keys that changes while a frontend runs."""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from headrace.frontend.access import key_file_watch
from headrace.frontend.access.key_file_watch import KeyFileWatch
from headrace.frontend.access.key_table import KeyTable
from headrace.protocol.api_keys import unnamed_key
from headrace.protocol.common import key_file


def entries(*names: str) -> str:
    return "".join(f'[[keys]]\nname = "{name}"\nkey = "key-of-{name}"\n' for name in names)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.toml"
    file.write_text(entries("a", "b"))
    return file


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def table() -> KeyTable:
    return KeyTable([unnamed_key("given")], is_open=False)


@pytest.fixture
def watch(
    table: KeyTable, file: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> KeyFileWatch:
    monkeypatch.setattr(key_file_watch, "SETTLE_S", 0.001)
    return KeyFileWatch(table, file, run_dir)


def names(table: KeyTable) -> list[str]:
    found = (table.find(secret.encode()) for secret in ("key-of-a", "key-of-b", "key-of-c"))
    return [key.name for key in found if key is not None]


def write(file: Path, text: str) -> None:
    file.write_text(text)


def rewrite(file: Path, text: str) -> None:
    """Change a file without changing its size or time."""
    before = file.stat()
    file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size


def link(file: Path, text: str) -> None:
    """Let a file's path lead to another file."""
    other = file.with_name("other")
    other.write_text(text)
    file.unlink()
    file.symlink_to(other)


def remove(file: Path) -> None:
    file.unlink()


def remove_folder(folder: Path) -> None:
    folder.rmdir()


async def test_changes_are_taken(table: KeyTable, watch: KeyFileWatch, file: Path) -> None:
    await watch.refresh()
    assert names(table) == ["a", "b"]
    assert table.find(b"given") is not None
    write(file, entries("b", "c"))
    await watch.refresh()
    assert names(table) == ["b", "c"]
    # A link that leads elsewhere, as volumes with secrets are swapped.
    link(file, entries("c"))
    await watch.refresh()
    assert names(table) == ["c"]
    assert not table.has_admin
    write(file, entries("c") + "admin = true\n")
    await watch.refresh()
    assert table.has_admin


async def test_a_change_of_the_same_size_and_time_is_seen(
    table: KeyTable, watch: KeyFileWatch, file: Path
) -> None:
    await watch.refresh()
    rewrite(file, entries("a", "c"))
    await watch.refresh()
    assert names(table) == ["a", "c"]


async def test_a_bad_file_changes_nothing_but_the_log(
    table: KeyTable,
    watch: KeyFileWatch,
    file: Path,
    run_dir: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await watch.refresh()
    for text, said in (
        ("", "must be a list"),
        (entries("a") + '[[keys]]\nname = "x"', r"keys[1] ('x'): needs either"),
        (entries("a", "a"), "another entry"),
        ('[[keys]]\nname = "x"\nkey = "given"', "--api-key or --admin-key"),
        ('[[keys]]\nname = "key-of-a', "is not TOML"),
        (None, "cannot be read"),
    ):
        caplog.clear()
        if text is None:
            remove(file)
        else:
            write(file, text)
        for _ in range(3):
            await watch.refresh()
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert said in record.getMessage()
        assert str(file) not in record.getMessage()
        assert names(table) == ["a", "b"]
        assert [key.name for key in key_file.load_last_good(run_dir)] == ["a", "b"]
    caplog.clear()
    write(file, entries("c"))
    await watch.refresh()
    assert names(table) == ["c"]
    write(file, "")
    await watch.refresh()
    assert [record.levelname for record in caplog.records].count("ERROR") == 1


async def test_a_file_that_is_away_twice_is_said_twice(
    watch: KeyFileWatch, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = entries("a", "b")
    await watch.refresh()
    for _ in range(2):
        remove(file)
        await watch.refresh()
        write(file, text)
        await watch.refresh()
    assert [record.levelname for record in caplog.records].count("ERROR") == 2


async def test_a_file_that_is_being_written_is_waited_for(
    table: KeyTable, watch: KeyFileWatch, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watch.refresh()
    whole = entries("a", "b", "c")
    read = key_file.read_bytes
    write(file, entries("a"))  # valid, and half of what comes

    def reading(path: Path) -> bytes:
        data = read(path)
        write(file, whole)
        return data

    monkeypatch.setattr(key_file, "read_bytes", reading)
    await watch.refresh()
    assert names(table) == ["a", "b"]
    await watch.refresh()
    assert names(table) == ["a", "b", "c"]


async def test_the_file_is_watched(
    table: KeyTable, watch: KeyFileWatch, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_file_watch, "INTERVAL_S", 0.01)
    task = asyncio.create_task(watch.run())
    try:
        write(file, entries("c"))
        async with asyncio.timeout(10):
            while names(table) != ["c"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_full_disk_does_not_keep_keys_out(
    table: KeyTable, watch: KeyFileWatch, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    remove_folder(run_dir)
    await watch.refresh()
    assert names(table) == ["a", "b"]
    assert "cannot keep a copy" in caplog.text
