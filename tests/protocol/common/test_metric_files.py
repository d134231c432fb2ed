"""The numbers of dead processes: added to sums, and counted once at every moment of that."""

import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from headrace.protocol.common import atomic_write, file_lock
from headrace.protocol.common.metrics import metric_files

DEAD = (11, 12, 13)
# Between any two lines of these, a writer is killed.
TRACED = {module.__file__ for module in (metric_files, atomic_write, file_lock)}


def write(folder: Path, kind: str, pid: int, **values: float) -> None:
    file: Any = MmapedDict(str(folder / f"{kind}_{pid}.db"))  # type: ignore[no-untyped-call]
    for name, value in values.items():
        label, _, bound = name.partition("_")
        if kind == "histogram":
            key = mmap_key("seconds", "seconds_bucket", ["who", "le"], [label, bound], "Help.")
        else:
            key = mmap_key("tokens", "tokens_total", ["who"], [label], "Help.")
        file.write_value(key, value, 0.0)
    file.close()


def totals_of(folder: Path) -> dict[tuple[str, ...], float]:
    samples = [sample for metric in metric_files.read(folder) for sample in metric.samples]
    totals = {(each.name, *sorted(each.labels.values())): each.value for each in samples}
    assert len(totals) == len(samples), "none twice"
    return totals


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for pid in (*DEAD, 99):
        write(tmp_path, "counter", pid, ann=pid, bob=0.5)
        write(tmp_path, "histogram", pid, **{"ann_0.5": 1, "ann_+Inf": pid})
        write(tmp_path, "gauge_livesum", pid, ann=1)
    for pid in DEAD:  # so that the totals do not change with their deaths
        (tmp_path / f"gauge_livesum_{pid}.db").unlink()
    return tmp_path


def files_of(folder: Path, pid: int) -> list[Path]:
    return list(folder.glob(f"*_{pid}.db"))


def test_the_dead_leave_numbers_and_no_files(folder: Path) -> None:
    before = totals_of(folder)
    assert before["tokens_total", "ann"] == 11 + 12 + 13 + 99
    assert before["seconds_bucket", "+Inf", "ann"] == 4 + 11 + 12 + 13 + 99
    for pid in DEAD:
        metric_files.forget(folder, pid)
        assert totals_of(folder) == before
        assert not files_of(folder, pid)
    assert len(list(folder.glob("sums.[0-9]*"))) == 1
    metric_files.forget(folder, 11)
    assert totals_of(folder) == before


def test_gauges_of_the_dead_are_gone(folder: Path) -> None:
    metric_files.forget(folder, 99)
    assert not files_of(folder, 99)


def test_process_with_the_pid_of_a_dead_one_counts(folder: Path) -> None:
    before = totals_of(folder)["tokens_total", "ann"]
    metric_files.forget(folder, 11)
    write(folder, "counter", 11, ann=1000)
    assert totals_of(folder)["tokens_total", "ann"] == before + 1000
    metric_files.forget(folder, 11)
    assert totals_of(folder)["tokens_total", "ann"] == before + 1000


def test_file_that_is_just_being_made_hurts_nobody(folder: Path) -> None:
    before = totals_of(folder)
    for kind in ("counter", "gauge_livesum"):
        (folder / f"{kind}_14.db").touch()
    assert totals_of(folder) == before
    metric_files.forget(folder, 14)
    assert totals_of(folder) == before


def forget_until_killed(folder: Path, pid: int, lines: int) -> bool:
    """Have another process do it, which is killed after so many lines. Whether it was."""
    child = os.fork()
    if child == 0:
        left = lines

        def trace(frame: FrameType, event: str, arg: object) -> object:
            nonlocal left
            if frame.f_code.co_filename not in TRACED:
                return None
            left -= event == "line"
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)  # type: ignore[arg-type]
        metric_files.forget(folder, pid)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def test_sums_are_right_wherever_their_writer_is_killed(folder: Path, tmp_path: Path) -> None:
    before = totals_of(folder)
    metric_files.forget(folder, 11)
    lines, killed = 0, True
    while killed:
        trial = tmp_path / f"trial-{lines}"
        shutil.copytree(folder, trial, symlinks=True, ignore=shutil.ignore_patterns("trial-*"))
        killed = forget_until_killed(trial, 12, lines)
        assert totals_of(trial) == before, f"killed after {lines} lines"
        metric_files.forget(trial, 12)
        metric_files.forget(trial, 13)
        assert totals_of(trial) == before, f"killed after {lines} lines"
        assert len(list(trial.glob("*.db"))) == 3  # of the one that lives
        assert len(list(trial.glob("sums*"))) == 3  # the link, what it leads to, and the lock
        lines += 1
    assert lines > 50


def test_readers_see_each_number_once_while_processes_die(tmp_path: Path) -> None:
    """A process's counters are there when it is, so that the greatest total is known."""
    stop = threading.Event()
    wrong: list[float] = []
    write(tmp_path, "counter", 1, ann=1)

    def scrape() -> None:
        last = 0.0
        while not stop.is_set():
            total = totals_of(tmp_path)["tokens_total", "ann"]
            if total < last or total > made:
                wrong.append(total)
            last = total

    made = 1
    readers = [threading.Thread(target=scrape) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for pid in range(2, 150):
            made += 1
            write(tmp_path, "counter", pid, ann=1)
            metric_files.forget(tmp_path, pid - 1)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not wrong
    assert totals_of(tmp_path)["tokens_total", "ann"] == made
    assert len(list(tmp_path.glob("*.db"))) == 1
