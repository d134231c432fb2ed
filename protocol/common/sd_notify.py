"""Telling systemd how a process is doing (sd_notify(3)); without systemd, telling nobody.

Each word is one datagram to the socket that NOTIFY_SOCKET names.
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

# systemd may be slow to read (while it reloads its units, say). It is waited for only with what is
# said once.
SEND_TIMEOUT_S = 1.0


class Notifier:
    """Says READY, STOPPING, STATUS and WATCHDOG of this process.

    It takes its variables out of the environment, so that no child speaks for this process.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._address = _address(environment.pop("NOTIFY_SOCKET", ""))
        usec = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        self._beat_s = _half(usec) if pid in ("", str(os.getpid())) else None
        self._beat_at = 0.0
        self._status = ""
        self._stopping = False

    @property
    def is_heard(self) -> bool:
        """Whether anybody asked to be told."""
        return bool(self._address)

    @property
    def beat_s(self) -> float | None:
        """How often `alive` is to be called at least; None: nobody waits for it."""
        return self._beat_s if self.is_heard else None

    def ready(self, status: str) -> None:
        """This process serves, from now on."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}", SEND_TIMEOUT_S)

    def stopping(self, status: str = "stopping") -> None:
        """This process is on its way to its end; what `status` says after that is not told."""
        if not self._stopping:
            self._stopping = True
            self._send(f"STOPPING=1\nSTATUS={_one_line(status)}", SEND_TIMEOUT_S)

    def status(self, status: str) -> None:
        """One line for `systemctl status`, sent when it differs from the one before."""
        told = status == self._status or self._stopping
        if not told and self._send(f"STATUS={_one_line(status)}"):
            self._status = status

    def alive(self, now: float | None = None) -> None:
        """Feed the watchdog, if it is time to. Call it as often as you like while all is well."""
        now = time.monotonic() if now is None else now
        if self._beat_s is not None and now >= self._beat_at and self._send("WATCHDOG=1"):
            self._beat_at = now + self._beat_s

    def _send(self, words: str, timeout_s: float = 0.0) -> bool:
        """Whether it could be said. No failure here is worth a request: the process goes on."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(timeout_s)
                sender.sendto(words.encode(), self._address)
        except BlockingIOError:
            return False  # said with the next try
        except OSError as error:
            log.warning("systemd cannot be told %r: %s", words, error)
            return False
        return True


def _address(name: str) -> str:
    """The socket's address; "@" begins an abstract one. Others (vsock) are for virtual machines."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _one_line(status: str) -> str:
    return status.replace("\n", " ")


def _half(usec: str) -> float | None:
    """Half of WATCHDOG_USEC in seconds, as sd_watchdog_enabled(3) advises."""
    return int(usec) / 2e6 if usec.isdecimal() and int(usec) > 0 else None
