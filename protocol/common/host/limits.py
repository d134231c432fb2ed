"""How much memory and how many CPUs this process may use: the machine's, or what its control groups
leave of them (a container's or a systemd unit's limits). Found without torch.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.protocol.common.host.cgroups import Cgroup, groups_of

_ROOT = Path("/")
_FILES_V1: tuple[str, ...] = ("memory.limit_in_bytes",)
_FILES_V2: tuple[str, ...] = ("memory.max", "memory.high")


@dataclass(frozen=True)
class Limit:
    """An amount (bytes, CPUs), and what limits it, in words for the log."""

    amount: int
    source: str


def available_memory(root: Path = _ROOT) -> Limit:
    """Return the memory that can be had without swapping, and what limits it.

    Of the memory in use of a control group, pages of files do not count, as on a machine
    without groups: the kernel drops them first. Those in active use that programs have mapped do.
    root: where /proc and /sys are, for tests.
    """
    limits = [_machine_memory(root)]
    for group in groups_of("memory", root=root):
        limits += _memory_of(group)
    return min(limits, key=lambda limit: limit.amount)


def available_cpus(root: Path = _ROOT) -> Limit:
    """Return the number of CPUs to compute on, at least 1, and what limits it.

    A quota of CPU time counts as that many CPUs, rounded down: threads that wait for each other in
    each step all wait when the quota stops one.
    """
    limits = [Limit(len(os.sched_getaffinity(0)), "the CPUs that it may run on")]
    for group in groups_of("cpu", root=root):
        quota = _cpu_quota(group)
        if quota is not None:
            source = f"CPU quota {quota:.2f} of {group.folder}"
            limits.append(Limit(max(1, int(quota)), source))
    return min(limits, key=lambda limit: limit.amount)


def _machine_memory(root: Path) -> Limit:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return Limit(int(line.split()[1]) * 1024, "the machine's available memory")
    except OSError:
        pass  # a container without /proc/meminfo
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Limit(pages, "the machine's free memory")


def _memory_of(group: Cgroup) -> Iterator[Limit]:
    """Yield what each limit of a group leaves."""
    if group.version == 2:
        files, usage, prefix, mapped = _FILES_V2, "memory.current", "", "file_mapped"
    else:
        files, usage, prefix, mapped = _FILES_V1, "memory.usage_in_bytes", "total_", "mapped_file"
    droppable = _droppable(group, prefix, mapped)
    for file in files:
        limit, used = group.number(file), group.number(usage)
        if limit is not None and used is not None:
            in_use = max(0, used - droppable)
            yield Limit(max(0, limit - in_use), f"{file} {limit} of {group.folder}")


def _droppable(group: Cgroup, prefix: str, mapped: str) -> int:
    """Return the bytes of a group's pages of files that nothing needs to keep.

    prefix, mapped: of the names in the group's statistics. Memory that processes share counts as
    mapped, too, and is no file.
    """
    inactive, active, held, shared = (
        group.value("memory.stat", prefix + key) or 0
        for key in ("inactive_file", "active_file", mapped, "shmem")
    )
    return inactive + max(0, active - max(0, held - shared))


def _cpu_quota(group: Cgroup) -> float | None:
    """Return a group's CPU time per time; None if it has no quota."""
    if group.version == 2:
        quota, _, period = group.text("cpu.max").partition(" ")
    else:
        quota, period = group.text("cpu.cfs_quota_us"), group.text("cpu.cfs_period_us")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)
