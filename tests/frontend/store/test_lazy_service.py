"""Services that are loaded when they are first needed, on a disk that is full at that moment."""

import asyncio
import os
from pathlib import Path

import pytest

from headrace.frontend.files.folder import FileFolder
from headrace.frontend.store import lazy_service
from headrace.frontend.store.lazy_service import LazyService
from tests.small_file_systems import fill, small_tmpfs


class FolderService:
    """A service that needs a folder of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = FileFolder(folder)
        self.has_started = False

    def start(self) -> None:
        self.has_started = True

    async def stop(self) -> None:
        pass


async def test_a_frontend_survives_work_that_comes_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(lazy_service, "CHECK_S", 0.01)
    attempts: list[Path] = []
    with small_tmpfs(tmp_path / "disk", 1 << 16) as disk:

        def load() -> FolderService:
            attempts.append(disk)
            return FolderService(disk / "files")

        filler = fill(disk)
        lazy = LazyService(load, lambda: True)
        await lazy.start()
        async with asyncio.timeout(10):
            while len(attempts) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert not exits
            filler.unlink()
            assert (await lazy.service()).has_started
        await lazy.stop()
    assert not exits


def test_a_folder_is_opened_again_without_space(tmp_path: Path) -> None:
    with small_tmpfs(tmp_path / "disk", 1 << 16) as disk:
        volume = FileFolder(disk / "files").volume
        fill(disk)
        assert FileFolder(disk / "files").volume == volume
        assert sorted(path.name for path in (disk / "files").iterdir()) == [
            "batches",
            "files",
            "uploads",
            "volume",
        ]
