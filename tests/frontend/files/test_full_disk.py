"""Uploads to a disk that is full, or becomes so meanwhile."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from quart.typing import TestClientProtocol as Client

from tests.frontend.batches.batch_asking import upload
from tests.frontend.files.test_files import left
from tests.small_file_systems import fill, small_tmpfs

SIZE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Where the uploads lie while they are received."""
    with small_tmpfs(tmp_path / "files", SIZE) as folder:
        yield folder


@pytest.mark.parametrize("room", [0, 8192, 65536])
async def test_an_upload_without_space_is_refused_and_leaves_nothing(
    disk: Path, client: Client, tmp_path: Path, room: int
) -> None:
    assert (await upload(client, b"x")).status_code == 200
    filler = fill(disk)
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - room)
    for _ in range(3):
        response = await upload(client, b"x" * 90_000)
        assert response.status_code == 507
        error = (await response.get_json())["error"]
        assert error["type"] == "Insufficient Storage"
        assert error["message"] == "The server has no space left to store this."
        assert left(tmp_path, "uploads") == []
    filler.unlink()
    assert (await upload(client, b"x" * 90_000)).status_code == 200
