"""systemd's side of sd_notify and of socket activation."""

import socket
import sys
import tempfile
import threading
from pathlib import Path

from tests.end_to_end.servers import wait_for

_PASS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
variables = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[2]}
os.execve(sys.argv[3], sys.argv[3:], os.environ | variables)
"""


def passing(listener: socket.socket, command: list[str], count: int = 1) -> list[str]:
    """A command that runs another as systemd does, with a socket (needs its number in pass_fds).

    count: how many are said to be passed.
    """
    return [sys.executable, "-c", _PASS, str(listener.fileno()), str(count), *command]


class NotifySocket:
    """A NOTIFY_SOCKET, and all that has been said to it (`words`, one for each line).

    A thread reads it all the time: the kernel keeps only a few datagrams.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hr-notify-")
        self.path = Path(self._folder.name, "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self.words: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while data := self._socket.recv(4096):
            self.words += data.decode().splitlines()

    @property
    def status(self) -> str:
        """The newest STATUS."""
        texts = [word.removeprefix("STATUS=") for word in self.words if word.startswith("STATUS=")]
        return texts[-1] if texts else ""

    def wait_for(self, word: str, timeout_s: float = 60.0) -> None:
        wait_for(lambda: word in self.words, f"{word}; told: {self.words}", timeout_s)

    def forget(self) -> None:
        self.words = []

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._reader.join()
        self._socket.close()
        self._folder.cleanup()
