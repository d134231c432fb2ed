"""Mapped files have all their blocks, or there is an error that can be handled."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from headrace.protocol.common.mapped_file import map_file, reserve_space
from tests.small_file_systems import fill, small_tmpfs

PAGE = 4096
WRITES_ALL = """
import sys
from pathlib import Path
from headrace.protocol.common.mapped_file import map_file
mapped = map_file(Path(sys.argv[1]), int(sys.argv[2]))
print("mapped", flush=True)
sys.stdin.read()
for start in range(0, len(mapped), 4096):
    mapped[start] = 1
print("written")
"""


def test_a_mapped_file_can_be_written_on_a_full_disk(tmp_path: Path) -> None:
    """In a process of its own, since a file with holes would kill it."""
    with small_tmpfs(tmp_path / "small", 1 << 20) as folder:
        command = [sys.executable, "-c", WRITES_ALL, str(folder / "mapped"), str(32 * PAGE)]
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "mapped\n"
            fill(folder)
            output, _ = writer.communicate(timeout=60)
    assert (writer.returncode, output) == (0, "written\n")


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    with small_tmpfs(tmp_path / "small", 1 << 20) as folder:
        fill(folder)
        with pytest.raises(OSError, match="No space") as raised:
            map_file(folder / "mapped", 32 * PAGE)
    assert raised.value.errno == errno.ENOSPC


def test_content_stays_and_the_rest_is_zero(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before")
    mapped = map_file(tmp_path / "file", PAGE)
    assert mapped[:8] == b"before\0\0"
    assert map_file(tmp_path / "file", 2 * PAGE)[:6] == b"before"
    mapped = map_file(tmp_path / "file", PAGE)  # never shortened
    assert (tmp_path / "file").stat().st_size == 2 * PAGE


@pytest.mark.parametrize("mode", [os.O_RDWR, os.O_RDWR | os.O_APPEND])
def test_a_file_system_that_cannot_allocate_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    def refused(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refused)
    (tmp_path / "file").write_bytes(b"before")
    descriptor = os.open(tmp_path / "file", mode)
    reserve_space(descriptor, 100_000)
    reserve_space(descriptor, 50_000)
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"before" + bytes(99_994)
    assert (tmp_path / "file").stat().st_blocks * 512 >= 100_000
