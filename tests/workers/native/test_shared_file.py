"""The file in which workers share weights: who fills it, who waits, who empties it, who dies."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.protocol.common.file_lock import byte_locked
from headrace.protocol.common.shared_weights import FILLING
from headrace.workers.native import huge_mapping
from headrace.workers.native.shared_file import SharedFile, SharedMapping

NAME = "headrace-weights-test"
SIZE = 3 * huge_mapping.HUGE_PAGE + 1000
# What other processes do: each line that they print is an event, each that they read lets them on.
OTHER = """
import ctypes, sys
from pathlib import Path
from headrace.workers.native.shared_file import SharedFile

def tell(what):
    print(what, flush=True)
    sys.stdin.readline()

def fill(address):
    tell("fills")
    ctypes.memset(address, ord(byte), size)

path, key, byte, size = *sys.argv[1:4], int(sys.argv[4])
mapping = SharedFile(Path(path), "headrace-weights-test").map(size, key, fill)
tell(mapping if isinstance(mapping, str) else "full" if mapping.was_filled else "filled")
tell(ctypes.string_at(mapping.address, size) == byte.encode() * size)
del mapping
tell("left")
"""


def can_share() -> bool:
    fd = os.memfd_create("probe")
    try:
        huge_mapping.allocate_pages(fd, huge_mapping.HUGE_PAGE)
        address = huge_mapping.map_file(fd, huge_mapping.HUGE_PAGE, writable=True)
        huge_mapping.unmap(address, huge_mapping.HUGE_PAGE)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


needs_huge_pages = pytest.mark.skipif(not can_share(), reason="no huge pages of memory files here")


class File:
    """A memory file of this process."""

    def __init__(self) -> None:
        self.fd = os.memfd_create(NAME)
        self.path = Path(f"/proc/{os.getpid()}/fd/{self.fd}")
        self.file = SharedFile(self.path, NAME)

    def try_map(self, byte: bytes = b"x", key: str = "key") -> SharedMapping | str:
        """The mapping, or why there is none."""

        def fill(address: int) -> None:
            ctypes.memset(address, byte[0], SIZE)

        return self.file.map(SIZE, key, fill)

    def map(self, byte: bytes = b"x") -> SharedMapping:
        mapping = self.try_map(byte)
        assert isinstance(mapping, SharedMapping)
        return mapping

    @property
    def blocks(self) -> int:
        return os.fstat(self.fd).st_blocks


@pytest.fixture
def shared() -> Iterator[File]:
    file = File()
    yield file
    os.close(file.fd)


class Other:
    """A process that maps the file."""

    def __init__(self, file: File, key: str = "key", byte: str = "x") -> None:
        command = [sys.executable, "-c", OTHER, str(file.path), key, byte, str(SIZE)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def event(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> "Other":
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def start(shared: File) -> Iterator[Callable[..., Other]]:
    started = []

    def start_one(**options: Any) -> Other:
        started.append(Other(shared, **options))
        return started[-1]

    yield start_one
    for each in started:
        each.kill()


def content(mapping: SharedMapping) -> bytes:
    return ctypes.string_at(mapping.address, SIZE)


def wait_for_waiting(file: File) -> None:
    """Until some process waits for a lock of the file."""
    inode = f":{os.fstat(file.fd).st_ino} "
    while not any("->" in each and inode in each for each in locks()):
        pass


def locks() -> list[str]:
    return Path("/proc/locks").read_text().splitlines()


@needs_huge_pages
def test_second_process_maps_what_the_first_has_filled(
    shared: File, start: Callable[..., Other]
) -> None:
    mapping = shared.map()
    assert not mapping.was_filled
    other = start()
    assert other.event() == "full"
    assert other.go_on().event() == "True"
    assert content(mapping) == b"x" * SIZE


@needs_huge_pages
def test_mapped_pages_are_huge_ones(shared: File) -> None:
    first, second = shared.map(), shared.map()
    size = huge_mapping.round_up_to_pages(SIZE + 4096) // 1024
    maps = Path("/proc/self/smaps").read_text().split(NAME)[1:]
    assert [_field(each, "ShmemPmdMapped") for each in maps] == [size, size]
    assert content(first) == content(second)


def _field(mapping: str, name: str) -> int:
    return int(mapping.split(f"{name}:")[1].split()[0])


@needs_huge_pages
def test_who_comes_while_another_fills_waits(shared: File, start: Callable[..., Other]) -> None:
    filling = start()
    assert filling.event() == "fills"
    waiting = start()
    wait_for_waiting(shared)
    assert filling.go_on().event() == "filled"
    assert waiting.event() == "full"
    assert waiting.go_on().event() == "True"


@needs_huge_pages
def test_killed_filler_leaves_nothing_that_another_would_take(
    shared: File, start: Callable[..., Other]
) -> None:
    filling = start(byte="a")
    assert filling.event() == "fills"
    waiting = start(byte="b")
    wait_for_waiting(shared)
    filling.kill()
    assert waiting.event() == "fills"
    assert waiting.go_on().event() == "filled"
    assert waiting.go_on().event() == "True"


@needs_huge_pages
def test_the_last_one_that_leaves_empties_the_file(
    shared: File, start: Callable[..., Other]
) -> None:
    mapping = shared.map()
    other = start()
    assert other.event() == "full"
    assert other.go_on().event() == "True"
    assert other.go_on().event() == "left"
    assert shared.blocks
    assert content(mapping) == b"x" * SIZE
    del mapping
    assert shared.blocks == 0
    again = shared.map(b"y")
    assert not again.was_filled
    assert content(again) == b"y" * SIZE


@needs_huge_pages
def test_killed_user_does_not_keep_the_memory(shared: File, start: Callable[..., Other]) -> None:
    mapping, other = shared.map(), start()
    assert other.event() == "full"
    other.kill()
    del mapping
    assert shared.blocks == 0


@needs_huge_pages
def test_what_killed_users_have_left_is_used(shared: File, start: Callable[..., Other]) -> None:
    other = start()
    assert other.event() == "fills"
    assert other.go_on().event() == "filled"
    other.kill()
    assert shared.blocks
    mapping = shared.map()
    assert mapping.was_filled
    assert content(mapping) == b"x" * SIZE


@needs_huge_pages
def test_other_weights_are_not_shared_while_someone_uses_these(
    shared: File, start: Callable[..., Other]
) -> None:
    mapping = shared.map()
    assert shared.try_map(b"y", key="another") == "other workers use it with other weights"
    assert shared.file.map(SIZE - 1, "key", print) == "other workers use it with other weights"
    assert content(mapping) == b"x" * SIZE
    del mapping


@needs_huge_pages
def test_other_weights_take_the_place_of_those_that_nobody_uses(
    shared: File, start: Callable[..., Other]
) -> None:
    other = start()
    assert other.event() == "fills"
    assert other.go_on().event() == "filled"
    other.kill()
    mapping = shared.try_map(b"y", key="another")
    assert isinstance(mapping, SharedMapping)
    assert not mapping.was_filled
    assert content(mapping) == b"y" * SIZE


@needs_huge_pages
def test_one_process_may_map_it_twice(shared: File) -> None:
    first, second = shared.map(), shared.map()
    del first
    assert shared.blocks
    assert content(second) == b"x" * SIZE
    del second
    assert shared.blocks == 0


@needs_huge_pages
def test_who_leaves_does_not_wait_for_who_comes(shared: File) -> None:
    """Objects end whenever the collector finds them: perhaps in a thread that is coming itself."""
    mapping = shared.map()
    coming = os.open(shared.path, os.O_RDWR)
    with byte_locked(coming, FILLING):
        del mapping
        assert shared.blocks == 0
    os.close(coming)


@needs_huge_pages
def test_nobody_can_write_to_it(shared: File) -> None:
    kept = [shared.map(), shared.map()]
    lines = [each for each in Path("/proc/self/maps").read_text().splitlines() if NAME in each]
    assert [each.split()[1] for each in lines] == ["r--s"] * len(kept)


@needs_huge_pages
def test_what_filling_raises_is_raised_and_the_file_is_empty(shared: File) -> None:
    def fail(address: int) -> None:
        ctypes.memset(address, 1, SIZE)
        raise MemoryError

    with pytest.raises(MemoryError):
        shared.file.map(SIZE, "key", fail)
    assert shared.blocks == 0
    assert content(shared.map()) == b"x" * SIZE


def test_without_huge_pages_nothing_is_shared(
    shared: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_mapping, "_advise", lambda *_: -1)
    assert "no huge pages" in str(shared.try_map())
    assert shared.blocks == 0
    assert not any(f":{os.fstat(shared.fd).st_ino} " in each for each in locks())


def test_file_that_is_gone_or_another(shared: File, tmp_path: Path) -> None:
    def unsupported_reason(path: Path) -> str:
        return str(SharedFile(path, NAME).map(SIZE, "key", print))

    assert "No such file" in unsupported_reason(Path("/proc/self/fd/9999"))
    (tmp_path / "file").touch()
    assert "no longer the group's file" in unsupported_reason(tmp_path / "file")
    another = os.memfd_create(f"{NAME}-2")
    assert "no longer the group's file" in unsupported_reason(Path(f"/proc/self/fd/{another}"))
    os.close(another)


CROWD = """
import ctypes, random, sys
from pathlib import Path
from headrace.workers.native.shared_file import SharedFile

path, size, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
file = SharedFile(Path(path), "headrace-weights-test")
print("begins", flush=True)
while True:
    mapping = file.map(size, "key", lambda address: ctypes.memset(address, ord("x"), size))
    for _ in range(rng.randrange(3)):
        assert ctypes.string_at(mapping.address, size) == b"x" * size
    del mapping
"""


@needs_huge_pages
def test_crowd_that_comes_and_goes_and_is_killed(shared: File) -> None:
    """No reader ever finds anything else than what belongs there, and nothing stays."""
    for number in range(4):
        crowd = [
            subprocess.Popen(
                [sys.executable, "-c", CROWD, str(shared.path), str(SIZE), str(number * 9 + each)],
                stdout=subprocess.PIPE,
            )
            for each in range(3)
        ]
        for each in crowd:
            assert each.stdout is not None
            assert each.stdout.readline() == b"begins\n"
        for _ in range(20):
            mapping = shared.map()
            assert content(mapping) == b"x" * SIZE
            del mapping
        for each in crowd:
            each.kill()
            assert each.wait() == -9  # it had not failed
            assert each.stdout is not None
            each.stdout.close()
    shared.map()
    assert shared.blocks == 0
