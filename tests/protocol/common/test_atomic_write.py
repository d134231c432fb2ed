"""Files and folders that are replaced: readers see the old or the new ones, never a half."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from headrace.protocol.common import atomic_write
from headrace.protocol.common.atomic_write import replacing, replacing_folder, write_atomically

OLD, NEW = "old " * 50_000, "new " * 50_000


def kill_after(lines: int, write: Callable[[], None]) -> bool:
    """Have another process write, which is killed after so many lines. Return whether it was."""
    child = os.fork()
    if child == 0:
        left = lines

        def trace(frame: FrameType, event: str, arg: object) -> object:
            nonlocal left
            if frame.f_code.co_filename != atomic_write.__file__:
                return None
            left -= event == "line"
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)  # type: ignore[arg-type]
        write()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def test_content_is_replaced(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "größer")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "größer"
    write_atomically(tmp_path / "a", b"\0")
    assert (tmp_path / "a").read_bytes() == b"\0"
    assert os.listdir(tmp_path) == ["a"]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_atomically(file, OLD)
    stop, wrong, reads = threading.Event(), [], []

    def read() -> None:
        while not stop.is_set():
            text = file.read_text()
            reads.append(1)
            if text not in (OLD, NEW):
                wrong.append(len(text))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(200):
            write_atomically(file, NEW)
            write_atomically(file, OLD)
    finally:
        stop.set()
        reader.join()
    assert len(reads) > 10
    assert not wrong


def test_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    lines, killed, seen = 0, True, set()
    while killed:
        write_atomically(file, OLD)  # whatever the one before has left
        killed = kill_after(lines, lambda: write_atomically(file, NEW))
        seen.add(file.read_text())
        lines += 1
    assert seen == {OLD, NEW}
    assert os.listdir(tmp_path) == ["a"]
    assert lines > 5


def fail_halfway(file: Path) -> None:
    with replacing(file) as part:
        part.write_text("half")
        raise KeyError


def test_body_that_raises_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text(OLD)
    with pytest.raises(KeyError):
        fail_halfway(file)
    assert file.read_text() == OLD
    with pytest.raises(FileNotFoundError), replacing(file):
        pass  # nothing was made
    assert file.read_text() == OLD
    assert os.listdir(tmp_path) == ["a"]


def test_links_are_replaced(tmp_path: Path) -> None:
    link = tmp_path / "link"
    for target in ("first", "second"):
        with replacing(link) as part:
            part.symlink_to(target)
        assert os.readlink(link) == target


def test_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "entry"
    for name in ("first", "second"):
        with replacing_folder(folder) as temporary:
            (temporary / name).touch()
            if name == "second":
                assert os.listdir(folder) == ["first"]
    assert os.listdir(folder) == ["second"]
    with pytest.raises(KeyError), replacing_folder(folder):
        raise KeyError
    assert os.listdir(folder) == ["second"]
    assert os.listdir(tmp_path) == ["entry"]


def test_folder_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "entry"

    def write() -> None:
        with replacing_folder(folder) as temporary:
            (temporary / "file").touch()

    lines = 0
    while kill_after(lines, write):
        assert not folder.exists() or os.listdir(folder) == ["file"]
        lines += 1
    assert lines > 5
    assert os.listdir(folder) == ["file"]
    assert os.listdir(tmp_path) == ["entry"]
