"""Locks on files: processes exclude each other, and a killed one leaves no lock."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.protocol.common.file_lock import (
    FileLock,
    LockHeld,
    byte_locked,
    lock_byte,
    locking_pid,
    try_lock_byte,
    try_lock_for_process,
    unlock_byte,
)

HOLD = """
import os, sys
from pathlib import Path
from headrace.protocol.common.file_lock import *
{statement}
print(os.getpid(), flush=True)
sys.stdin.read()
"""
FD = "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)"


class Holder:
    """Another process that has executed a statement, and then waits."""

    def __init__(self, file: Path, statement: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", HOLD.format(statement=statement), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert int(self.process.stdout.readline()) == self.process.pid

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.lock"


@pytest.fixture
def hold(file: Path) -> Iterator[Callable[[str], Holder]]:
    holders: list[Holder] = []

    def start(statement: str) -> Holder:
        holders.append(Holder(file, statement))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()


def test_killed_holder_leaves_no_lock(file: Path, hold: Callable[[str], Holder]) -> None:
    holder = hold("FileLock(Path(sys.argv[1]))")
    for shared in (False, True):
        with pytest.raises(LockHeld):
            FileLock(file, shared=shared, blocking=False)
    holder.kill()
    FileLock(file, blocking=False).release()


def test_shared_locks_exclude_exclusive_ones_alone(
    file: Path, hold: Callable[[str], Holder]
) -> None:
    hold("FileLock(Path(sys.argv[1]), shared=True)")
    with FileLock(file, shared=True, blocking=False), pytest.raises(LockHeld):
        FileLock(file, blocking=False)


def test_lock_is_held_until_it_is_released(file: Path) -> None:
    FileLock(file)  # nothing refers to it any more
    with pytest.raises(LockHeld):
        FileLock(file, blocking=False)


def test_body_that_raises_releases_the_lock(file: Path) -> None:
    with pytest.raises(KeyError), FileLock(file):
        raise KeyError
    FileLock(file, blocking=False).release()


def test_blocking_lock_waits(file: Path) -> None:
    order = []

    def wait() -> None:
        with FileLock(file):
            order.append("waiter")

    waiter = threading.Thread(target=wait)
    with FileLock(file):
        waiter.start()
        waiter.join(0.2)
        order.append("holder")
    waiter.join(10)
    assert order == ["holder", "waiter"]


def test_processes_that_contend_take_turns(tmp_path: Path) -> None:
    """Each reads a number, and writes the next one: without the lock, some are lost."""
    count, number = 500, tmp_path / "number"
    number.write_text("0")
    program = f"""
import sys
from pathlib import Path
from headrace.protocol.common.file_lock import FileLock
number = Path(sys.argv[1])
print(flush=True)
sys.stdin.read(1)
for _ in range({count}):
    with FileLock(number.with_name("lock")):
        number.write_text(str(int(number.read_text()) + 1))
"""
    command = [sys.executable, "-P", "-c", program, str(number)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(2)]
    for process in processes:  # both have imported their modules
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"!")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert int(number.read_text()) == 2 * count


def test_holder_that_removes_its_file_locks_no_later_one(file: Path) -> None:
    """Two processes must never both believe that they hold the lock of one path."""
    acquired: list[FileLock] = []
    waiter = threading.Thread(target=lambda: acquired.append(FileLock(file)))
    with FileLock(file):
        waiter.start()
        waiter.join(0.2)
        assert not acquired
        file.unlink()
    waiter.join(10)
    assert len(acquired) == 1
    with pytest.raises(LockHeld):
        FileLock(file, blocking=False)


def test_links_are_not_followed(file: Path, tmp_path: Path) -> None:
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock(file)
    assert not (tmp_path / "elsewhere").exists()


def test_children_do_not_inherit_the_lock(file: Path) -> None:
    with FileLock(file):
        child = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
    try:
        assert child.stdout is not None
        child.stdout.readline()  # the kernel lets its parent continue before it closes files
        FileLock(file, blocking=False).release()
    finally:
        child.communicate(b"\n")


def test_bytes_are_locked_one_by_one(file: Path, hold: Callable[[str], Holder]) -> None:
    holder = hold(f"{FD}; lock_byte(fd, 1); lock_byte(fd, 2, shared=True)")
    fd = os.open(file, os.O_RDWR)
    assert try_lock_byte(fd, 0)
    assert not try_lock_byte(fd, 1, shared=True)
    assert not try_lock_byte(fd, 2)
    assert try_lock_byte(fd, 2, shared=True)
    holder.kill()
    assert try_lock_byte(fd, 1)
    os.close(fd)


def test_lock_of_a_byte_belongs_to_an_open_file(file: Path) -> None:
    first, second = (os.open(file, os.O_RDWR | os.O_CREAT) for _ in range(2))
    with byte_locked(first, 0):
        assert try_lock_byte(first, 0)
        assert not try_lock_byte(second, 0)
    lock_byte(second, 0)
    assert not try_lock_byte(first, 0)
    unlock_byte(second, 0)
    assert try_lock_byte(first, 0)
    os.close(first)
    os.close(second)


def test_holder_of_a_processes_lock_is_known(file: Path, hold: Callable[[str], Holder]) -> None:
    holder = hold(f"{FD}; assert try_lock_for_process(fd)")
    fd = os.open(file, os.O_RDWR)
    assert not try_lock_for_process(fd)
    assert locking_pid(fd) == holder.process.pid
    holder.kill()
    assert locking_pid(fd) == 0
    assert try_lock_for_process(fd)
    os.close(fd)


def test_program_that_a_process_becomes_keeps_its_lock(
    file: Path, hold: Callable[[str], Holder]
) -> None:
    then = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
    become = f"os.execv(sys.executable, [sys.executable, '-c', {then!r}])"
    holder = hold(f"{FD}; os.set_inheritable(fd, True); try_lock_for_process(fd); {become}")
    fd = os.open(file, os.O_RDWR)
    assert locking_pid(fd) == holder.process.pid
    os.close(fd)
