"""What the kernel says of memory: pressure, and processes that it has killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.protocol.common.host.pressure import ENDING_S, MemoryKills, memory_pressure
from tests.protocol.common.host_trees import group, v1, v2

PSI = "some avg10={} avg60=0.00 avg300=0.00 total=20\nfull avg10={} avg60=0.00 avg300=0.00 total=9"
KILLED = -signal.SIGKILL


def machine(root: Path, some: float, full: float) -> None:
    (root / "proc/pressure").mkdir(exist_ok=True)
    (root / "proc/pressure/memory").write_text(PSI.format(some, full))


def test_no_pressure_is_not_worth_a_word(tmp_path: Path) -> None:
    root = v2(tmp_path, "/a")
    assert memory_pressure(root) == "", "a kernel that does not tell"
    machine(root, 1.0, 0.5)
    assert memory_pressure(root) == ""


def test_the_place_with_the_most_pressure_is_named(tmp_path: Path) -> None:
    root = v2(tmp_path, "/pool.slice/worker-0.service")
    machine(root, 12.3, 4.0)
    said = "memory pressure: in the last 10 s processes of the machine waited for memory"
    assert memory_pressure(root) == f"{said} 12% of the time, all of them 4%"
    group(root, "pool.slice", memory__pressure=PSI.format(81.0, 60.0))
    group(root, "pool.slice/worker-0.service", memory__pressure=PSI.format(70.0, 65.0))
    assert "/pool.slice waited for memory 81% of the time, all of them 60%" in memory_pressure(root)


@pytest.mark.parametrize("junk", ["", "some", "some avg10=", "some avg10=x avg60=1"])
def test_what_cannot_be_read_is_no_pressure(tmp_path: Path, junk: str) -> None:
    root = v2(tmp_path, "/a")
    (root / "proc/pressure").mkdir()
    (root / "proc/pressure/memory").write_text(junk)
    assert memory_pressure(root) == ""


@pytest.mark.parametrize("counter", ["machine", "group", "version 1"])
def test_a_kill_that_the_kernel_counts_explains_an_end(tmp_path: Path, counter: str) -> None:
    root = v1(tmp_path, "/box") if counter == "version 1" else v2(tmp_path, "/box")

    def count(number: int) -> None:
        if counter == "machine":
            (root / "proc/vmstat").write_text(f"nr_free_pages 9\noom_kill {number}\n")
        elif counter == "group":
            group(root, "box", memory__events=f"low 0\noom 3\noom_kill {number}")
        else:
            group(root, "memory/box", memory__oom_control=f"under_oom 0\noom_kill {number}")

    count(4)
    kills = MemoryKills(root)
    assert not kills.explains(KILLED, 1.0), "that was before"
    count(5)
    assert not kills.explains(-signal.SIGTERM, 1.5)
    kills.look(2.0)  # before the end is reported
    assert kills.explains(KILLED, 3.0)
    assert kills.explains(None, 3.0), "systemd knows the signal"
    assert not kills.explains(1, 3.0)
    assert not kills.explains(KILLED, 2.0 + ENDING_S + 0.1)


def test_counts_that_appear_or_vanish_are_no_kills(tmp_path: Path) -> None:
    root = v2(tmp_path, "/a")
    kills = MemoryKills(root)
    group(root, "a", memory__events="oom_kill 7")
    assert not kills.explains(KILLED, 1.0)


def test_a_real_kill() -> None:
    """A process that needs more than its control group may have."""
    limits = ("memory.limit_in_bytes", "memory.max")
    for tree in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        folder = tree / "headrace-test-kill"
        try:
            folder.mkdir()
        except OSError:
            continue
        found = [folder / name for name in limits if (folder / name).exists()]
        if found:
            break
        folder.rmdir()
    else:
        pytest.skip("no control group with a memory limit can be made here")
    try:
        found[0].write_text(str(64 << 20))
        if (folder / "memory.swap.max").exists():
            (folder / "memory.swap.max").write_text("0")
        kills = MemoryKills()
        join = f'echo 0 > {folder}/cgroup.procs; exec "$@"'
        needs = [sys.executable, "-c", "x = bytearray(1 << 28)"]
        ended = subprocess.run(["sh", "-c", join, "sh", *needs], check=False)
        assert ended.returncode == KILLED
        assert kills.explains(ended.returncode, 1.0)
    finally:
        folder.rmdir()
