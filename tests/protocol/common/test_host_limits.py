"""Memory and CPUs: what the machine has, or what the control groups of this process leave of it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.protocol.common.host.limits import available_cpus, available_memory
from tests.protocol.common.host_trees import MIB, UNLIMITED_V1, group, host, v1, v2


@pytest.fixture(autouse=True)
def sixteen_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))


def memory_mib(root: Path) -> int:
    return available_memory(root).amount // MIB


def test_a_machine_without_groups(tmp_path: Path) -> None:
    root = host(tmp_path, "", "")
    assert available_memory(root).amount == 8_192_000 * 1024
    assert available_memory(root).source == "the machine's available memory"
    assert available_cpus(root).amount == 16


def test_a_unit_of_systemd_deep_in_the_tree(tmp_path: Path) -> None:
    """The limit is of the unit's own group, which is not the one at the mount."""
    root = v2(tmp_path, "/system.slice/headrace.service")
    group(root, "", cgroup__controllers="cpu memory")
    group(root, "system.slice", memory__max="max", memory__current=900 * MIB, cpu__max="max 100000")
    group(
        root, "system.slice/headrace.service",
        memory__max=2048 * MIB, memory__current=648 * MIB, memory__stat="anon 1\ninactive_file 0",
        cpu__max="300000 100000",
    )  # fmt: skip
    assert memory_mib(root) == 1400
    memory, cpus = available_memory(root), available_cpus(root)
    assert memory.source.startswith(f"memory.max {2048 * MIB} of ")
    assert memory.source.endswith("/system.slice/headrace.service")
    assert cpus.amount == 3
    assert "CPU quota 3.00" in cpus.source


def test_the_narrowest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    """A slice's limit holds for all units in it together."""
    root = v2(tmp_path, "/pool.slice/worker-0.service")
    group(root, "pool.slice", memory__max=4000 * MIB, memory__current=3500 * MIB,
          cpu__max="150000 100000")  # fmt: skip
    group(root, "pool.slice/worker-0.service", memory__max=2000 * MIB, memory__current=100 * MIB,
          cpu__max="max 100000")  # fmt: skip
    assert memory_mib(root) == 500
    assert available_memory(root).source.endswith("/pool.slice")
    assert available_cpus(root).amount == 1, "one and a half are one"


def test_memory_high_slows_down_as_max_kills(tmp_path: Path) -> None:
    root = v2(tmp_path, "/a")
    group(root, "a", memory__max=2000 * MIB, memory__high=1500 * MIB, memory__current=1000 * MIB)
    assert memory_mib(root) == 500
    assert available_memory(root).source.startswith("memory.high")


def test_files_that_can_be_dropped_are_not_used_memory(tmp_path: Path) -> None:
    root = v2(tmp_path, "/a")
    stat = f"anon 5\nfile 7\ninactive_anon 9\ninactive_file {800 * MIB}\nactive_file 3"
    group(root, "a", memory__max=1000 * MIB, memory__current=1000 * MIB, memory__stat=stat)
    assert memory_mib(root) == 800


def test_files_read_often_can_be_dropped_too(tmp_path: Path) -> None:
    """As a model's file by each worker that starts; but not what is mapped, such as programs."""
    root = v2(tmp_path, "/a")
    stat = f"inactive_file {100 * MIB}\nactive_file {600 * MIB}\nfile_mapped {500 * MIB}"
    stat += f"\nshmem {450 * MIB}"  # shared weights are mapped, and are no files
    group(root, "a", memory__max=2000 * MIB, memory__current=2000 * MIB, memory__stat=stat)
    assert memory_mib(root) == 100 + 600 - 50


def test_files_read_often_on_version_1(tmp_path: Path) -> None:
    root = v1(tmp_path, "/a")
    amounts = {"inactive_file": 100, "active_file": 600, "mapped_file": 30, "shmem": 0}
    stat = "\n".join(f"{key} 1\ntotal_{key} {amount * MIB}" for key, amount in amounts.items())
    group(
        root, "memory/a", memory__limit_in_bytes=1000 * MIB, memory__usage_in_bytes=1000 * MIB,
        memory__stat=stat,
    )  # fmt: skip
    assert memory_mib(root) == 670


@pytest.mark.parametrize("active", [0, 5])
def test_more_mapped_than_in_active_use(tmp_path: Path, active: int) -> None:
    root = v2(tmp_path, "/a")
    stat = f"inactive_file {100 * MIB}\nactive_file {active * MIB}\nfile_mapped {50 * MIB}"
    group(root, "a", memory__max=1000 * MIB, memory__current=1000 * MIB, memory__stat=stat)
    assert memory_mib(root) == 100


def test_a_group_that_is_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    root = v2(tmp_path, "/a")
    group(root, "a", memory__high=1000 * MIB, memory__current=1200 * MIB)
    assert memory_mib(root) == 0


def test_a_container_that_sees_its_own_group_as_root(tmp_path: Path) -> None:
    root = v2(tmp_path, "/")
    group(root, "", memory__max=512 * MIB, memory__current=112 * MIB, cpu__max="50000 100000")
    assert memory_mib(root) == 400
    assert available_cpus(root).amount == 1, "never none"


@pytest.mark.parametrize("path", ["/docker/4f", "/../../kubepods/pod7/4f", "/other"])
def test_a_container_whose_mount_begins_at_its_group(tmp_path: Path, path: str) -> None:
    root = v2(tmp_path, path, mount_root="/docker/4f")
    group(root, "", memory__max=512 * MIB, memory__current=112 * MIB)
    assert memory_mib(root) == 400


def test_version_1(tmp_path: Path) -> None:
    root = v1(tmp_path, "/box/inner")
    for path in ("memory", "memory/box", "memory/box/inner"):
        limit = 1024 * MIB if path == "memory/box" else UNLIMITED_V1
        group(
            root, path, memory__limit_in_bytes=limit, memory__usage_in_bytes=824 * MIB,
            memory__stat=f"inactive_file 1\ntotal_inactive_file {200 * MIB}",
        )  # fmt: skip
    group(root, "cpu,cpuacct/box/inner", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    group(root, "cpu,cpuacct/box", cpu__cfs_quota_us=450000, cpu__cfs_period_us=100000)
    assert memory_mib(root) == 400
    assert available_memory(root).source.endswith("/memory/box")
    assert available_cpus(root).amount == 4


def test_a_container_on_version_1(tmp_path: Path) -> None:
    """Its process file names the host's path, its mount begins there."""
    root = v1(tmp_path, "/docker/4f", mount_root="/docker/4f")
    group(root, "memory", memory__limit_in_bytes=512 * MIB, memory__usage_in_bytes=112 * MIB)
    assert memory_mib(root) == 400


def test_a_quota_wider_than_the_processors(tmp_path: Path) -> None:
    root = v2(tmp_path, "/a")
    group(root, "a", cpu__max="6400000 100000")
    assert available_cpus(root).amount == 16


@pytest.mark.parametrize("junk", ["", "max", "a b c", "-5", "100000 0"])
def test_files_that_say_nothing_are_no_limits(tmp_path: Path, junk: str) -> None:
    root = v2(tmp_path, "/a")
    group(root, "a", memory__max=junk, memory__current=junk, cpu__max=junk, memory__stat=junk)
    assert memory_mib(root) == 8000
    assert available_cpus(root).amount == 16


PRINTS = """
from headrace.protocol.common.host.limits import available_cpus, available_memory
print(available_memory().amount, available_cpus().amount)
"""


@pytest.fixture
def real_group() -> Iterator[list[Path]]:
    """A group of this machine's own trees with 256 MiB and one CPU's time."""
    files: dict[str, dict[str, int | str]] = {
        "memory": {"memory.limit_in_bytes": 256 * MIB, "memory.max": 256 * MIB},
        "cpu": {"cpu.cfs_quota_us": 100_000, "cpu.max": "100000 100000"},
    }
    made: list[Path] = []
    for controller, contents in files.items():
        for tree in (Path("/sys/fs/cgroup") / controller, Path("/sys/fs/cgroup")):
            folder = tree / "headrace-test"
            try:
                folder.mkdir()
            except OSError:
                continue
            made.append(folder)
            for name in contents.keys() & {each.name for each in folder.iterdir()}:
                (folder / name).write_text(str(contents[name]))
            break
    yield made
    for folder in made:
        folder.rmdir()


def test_a_real_group(real_group: list[Path]) -> None:
    limited = [each for each in real_group if any(each.glob("memory.*limit*"))]
    limited += [each for each in real_group if (each / "memory.max").exists()]
    if not limited:
        pytest.skip("no control group with a memory limit can be made here")
    join = "".join(f"echo 0 > {each}/cgroup.procs; " for each in real_group)
    command = ["sh", "-c", f'{join}exec "$@"', "sh", sys.executable, "-c", PRINTS]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    memory, cpus = map(int, output.split())
    assert 128 * MIB < memory <= 256 * MIB
    assert cpus == 1
