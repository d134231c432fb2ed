"""Several frontends count together, and what they count outlives each of them."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.frontend.rate_limits import shared_meters
from headrace.frontend.rate_limits.rate_limits import RateLimited, RateLimits
from headrace.protocol.common.file_lock import byte_locked
from tests.frontend.rate_limits.counting_process import counted_key

LIMIT = 600


def start(folder: Path, mode: str, limit: int, seconds: float) -> subprocess.Popen[str]:
    module = "tests.frontend.rate_limits.counting_process"
    command = [sys.executable, "-m", module, str(folder), str(seconds), mode, str(limit)]
    root = Path(__file__).parents[3]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)


@contextmanager
def frontends(count: int, *arguments: object) -> Iterator[list[subprocess.Popen[str]]]:
    started = [start(*arguments) for _ in range(count)]  # type: ignore[arg-type]
    try:
        yield started
    finally:
        for each in started:
            each.kill()
            each.wait()
            assert each.stdout is not None
            each.stdout.close()


def printed(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def take_all(limits: RateLimits, **values: int) -> int:
    taken = 0
    while taken < 10_000:
        try:
            limits.admit(counted_key(**values))
        except RateLimited:
            break
        taken += 1
    return taken


def test_frontends_take_exactly_the_limit_together(tmp_path: Path) -> None:
    started = time.monotonic()
    with frontends(3, tmp_path, "requests_per_minute", LIMIT, 3.0) as processes:
        taken = [printed(each) for each in processes]
    at_most = LIMIT * (1 + (time.monotonic() - started) / 60)
    assert LIMIT <= sum(taken) <= at_most
    assert sum(count > 0 for count in taken) > 1


def test_a_killed_frontend_does_not_begin_the_minute_anew(tmp_path: Path) -> None:
    started = time.monotonic()
    with frontends(2, tmp_path, "requests_per_minute", LIMIT, 60.0) as processes:
        limits = RateLimits.in_folder(tmp_path)
        key = counted_key(requests_per_minute=LIMIT)
        while (level := limits.levels(key).requests) is None or level.remaining:
            assert time.monotonic() < started + 30
            time.sleep(0.05)
        for each in processes:
            each.send_signal(signal.SIGKILL)
            each.wait()
    again = RateLimits.in_folder(tmp_path)  # the successor
    passed_s = time.monotonic() - started
    assert take_all(again, requests_per_minute=LIMIT) <= LIMIT * passed_s / 60 + 1


def test_requests_at_once_of_a_dead_frontend_are_given_back(tmp_path: Path) -> None:
    here = RateLimits.in_folder(tmp_path)
    slots = [here.admit(counted_key(max_requests=10)) for _ in range(4)]
    with frontends(1, tmp_path, "max_requests", 10, 0.5) as (process,):
        assert printed(process) == 6
        assert take_all(here, max_requests=10) == 0
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert take_all(here, max_requests=10) == 6
    for slot in slots:
        slot.release()
    assert take_all(here, max_requests=10) == 4


def test_a_successor_in_the_same_row_has_none_of_the_dead_ones_requests(tmp_path: Path) -> None:
    with frontends(1, tmp_path, "max_requests", 10, 0.3) as (process,):
        assert printed(process) == 10
    assert take_all(RateLimits.in_folder(tmp_path), max_requests=10) == 10


def test_a_slot_is_given_back_when_all_have_released_it() -> None:
    limits = RateLimits.in_folder(None)
    slot = limits.admit(counted_key(max_requests=1))
    slot.hold()
    slot.release()
    assert take_all(limits, max_requests=1) == 0
    slot.release()
    assert take_all(limits, max_requests=1) == 1


def test_a_file_that_stays_locked_does_not_stop_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frontend may be stopped while it has the lock."""
    monkeypatch.setattr(shared_meters, "LOCK_S", 0.02)
    limits = RateLimits.in_folder(tmp_path)
    assert limits.admit(counted_key(requests_per_minute=100))
    locks, byte = tmp_path / "locks", shared_meters.lock_byte_of("ann")
    with locks.open("r+b") as opened, byte_locked(opened.fileno(), byte):
        started = time.monotonic()
        for _ in range(20):
            limits.admit(counted_key(requests_per_minute=100))
        assert time.monotonic() - started < 0.5
    level = limits.levels(counted_key(requests_per_minute=100)).requests
    assert level is not None
    assert level.remaining <= 80


def test_without_a_folder_each_frontend_counts_on_its_own(tmp_path: Path) -> None:
    (tmp_path / "limits").write_text("in the way")
    limits = RateLimits.in_folder(tmp_path / "limits")
    assert take_all(limits, requests_per_minute=5) == 5


def test_the_files_are_the_owners_alone(tmp_path: Path) -> None:
    take_all(RateLimits.in_folder(tmp_path / "limits"), requests_per_minute=2)
    files = list((tmp_path / "limits").rglob("*"))
    assert files
    assert not any(file.stat().st_mode & 0o077 for file in files)
    assert not any("ann" in file.name for file in files)
