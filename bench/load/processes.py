"""Measure the CPU time of a server on this machine, found by the port that it listens on."""

import contextlib
from pathlib import Path
from urllib.parse import urlsplit

import psutil

LISTEN = "0A"
LOCAL = ("127.0.0.1", "localhost", "::1")


class ServerProcesses:
    """All processes that hold a server's listening socket, and their children."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        holders = _holders(_listening_inodes(port)) if parts.hostname in LOCAL else set()
        self._processes = set[psutil.Process]()
        for pid in holders:
            process = psutil.Process(pid)
            self._processes |= {process, *process.children(recursive=True)}

    @property
    def found(self) -> bool:
        """Whether any were found: none are of a server on another machine or of another user."""
        return bool(self._processes)

    def cpu_s(self) -> float:
        """Return their CPU time so far, in seconds. Raises RuntimeError if one has ended."""
        try:
            times = [process.cpu_times() for process in self._processes]
        except psutil.NoSuchProcess as error:
            raise RuntimeError(f"process {error.pid} of the server has ended") from error
        return float(sum(time.user + time.system for time in times))


def parse_listening(table: str, port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a port, from a table like /proc/net/tcp."""
    inodes = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[3] == LISTEN and int(fields[1].rsplit(":", 1)[1], 16) == port:
            inodes.add(fields[9])
    return inodes


def _listening_inodes(port: int) -> set[str]:
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    return {
        inode
        for table in tables
        if table.exists()
        for inode in parse_listening(table.read_text(), port)
    }


def _holders(inodes: set[str]) -> set[int]:
    """Return the processes that have one of these sockets open; other users' cannot be seen."""
    names = {f"socket:[{inode}]" for inode in inodes}
    return {
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if not names.isdisjoint(_open_files(folder))
    }


def _open_files(process: Path) -> set[str]:
    targets = set()
    with contextlib.suppress(OSError):  # the process has ended or is another user's
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                targets.add(str(link.readlink()))
    return targets
