"""Trees like /proc and /sys/fs/cgroup, as kernels and container engines show them."""

from pathlib import Path

MIB = 1 << 20
MEMINFO = "MemTotal: 16384000 kB\nMemAvailable: 8192000 kB\n"  # 8,000 MiB are available
UNLIMITED_V1 = 9223372036854771712
MOUNT_V2 = "31 23 0:28 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
MOUNT_V1 = "35 31 0:32 {root} /sys/fs/cgroup/{name} rw shared:9 - cgroup cgroup rw,{name}\n"
V1_CONTROLLERS = ("memory", "cpu,cpuacct")


def host(root: Path, cgroup: str, mountinfo: str) -> Path:
    """A machine's /proc. cgroup, mountinfo: what the process's files of that name say."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(MEMINFO)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mountinfo)
    return root


def v2(root: Path, path: str, mount_root: str = "/") -> Path:
    return host(root, f"0::{path}\n", MOUNT_V2.format(root=mount_root))


def v1(root: Path, path: str, mount_root: str = "/") -> Path:
    """Version 1, beside an empty tree of version 2 as systemd's hybrid hosts have it."""
    lines = [f"{9 - n}:{name}:{path}\n" for n, name in enumerate(V1_CONTROLLERS)]
    mounts = [MOUNT_V1.format(root=mount_root, name=name) for name in V1_CONTROLLERS]
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    (root / "sys/fs/cgroup/unified").mkdir(parents=True)
    return host(root, "".join(lines) + "0::/\n", "".join(mounts) + unified)


def group(root: Path, path: str, **files: object) -> None:
    """A group's folder below /sys/fs/cgroup; dots of the files' names are written as "__"."""
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")
