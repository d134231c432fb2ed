"""The control groups of this process, of version 1 (a tree for each controller) or 2.

What limits a process are the limits of its own group and of all groups above it. In a container
the tree is often shown from the container's group on, at a mount whose root is that group.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ESCAPED = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}


@dataclass(frozen=True)
class Cgroup:
    """A folder of a cgroup file system. version: 1 or 2."""

    version: int
    folder: Path

    def text(self, file: str) -> str:
        """Return the content of a file of the group; "" if there is none."""
        try:
            return (self.folder / file).read_text().strip()
        except (OSError, ValueError):  # not there, or the controller is not enabled
            return ""

    def number(self, file: str) -> int | None:
        """Return the number in a file; None if there is none, or it is "max" or negative."""
        text = self.text(file)
        return int(text) if text.isdigit() else None

    def value(self, file: str, key: str) -> int | None:
        """Return the number of a key in a file of lines "key number"; None if it is not there."""
        for line in self.text(file).splitlines():
            name, _, number = line.partition(" ")
            if name == key and number.isdigit():
                return int(number)
        return None


def groups_of(controller: str, pid: int | None = None, root: Path = Path("/")) -> list[Cgroup]:
    """Return the groups whose limits a process has: its own first, then those above it.

    controller: "memory" or "cpu". root: where /proc and /sys are, for tests.
    """
    process = root / "proc" / ("self" if pid is None else str(pid))
    paths = _paths(_read(process / "cgroup"), controller)
    found: list[Cgroup] = []
    for version, mount_root, mount in _mounts(_read(process / "mountinfo"), controller):
        if version in paths:
            top = root / mount.relative_to("/")
            inner = _below(paths[version], mount_root)
            found += [Cgroup(version, each) for each in _upwards(top, inner)]
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _paths(text: str, controller: str) -> dict[int, PurePosixPath]:
    """Return a process's path in the trees that may hold a controller, by version."""
    paths: dict[int, PurePosixPath] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths[2] = PurePosixPath(path)
        elif controller in controllers.split(","):
            paths[1] = PurePosixPath(path)
    return paths


def _mounts(text: str, controller: str) -> Iterator[tuple[int, PurePosixPath, Path]]:
    """Yield version, root and mount point of the trees that may hold a controller."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        version = {"cgroup": 1, "cgroup2": 2}.get(kind[0])
        if version == 2 or (version == 1 and controller in kind[2].split(",")):
            yield version, PurePosixPath(_unescape(fields[3])), Path(_unescape(fields[4]))


def _below(path: PurePosixPath, mount_root: PurePosixPath) -> PurePosixPath:
    """Return a group's path below a mount; empty if the mount does not show it.

    Then it is a container's, whose group is the mount's root.
    """
    if ".." in path.parts or not path.is_relative_to(mount_root):
        return PurePosixPath()
    return path.relative_to(mount_root)


def _upwards(top: Path, inner: PurePosixPath) -> Iterator[Path]:
    """Yield the folders from the inner one up to the top, those that exist."""
    for path in (inner, *inner.parents):
        if (top / path).is_dir():
            yield top / path


def _unescape(text: str) -> str:
    for escaped, character in _ESCAPED.items():
        text = text.replace(escaped, character)
    return text
