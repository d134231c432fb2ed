"""Telling systemd how a process is doing (sd_notify(3)); without systemd, telling nobody.

Each word is one datagram to the socket that NOTIFY_SOCKET names.
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

# systemd reads quickly. One that does not must not hold up a server for long.
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
        self._send(f"READY=1\nSTATUS={self._note(status)}")

    def stopping(self, status: str = "stopping") -> None:
        """This process is on its way to its end; what `status` says after that is not told."""
        if not self._stopping:
            self._stopping = True
            self._send(f"STOPPING=1\nSTATUS={self._note(status)}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`, sent when it differs from the one before."""
        if status != self._status and not self._stopping:
            self._send(f"STATUS={self._note(status)}")

    def alive(self, now: float | None = None) -> None:
        """Feed the watchdog, if it is time to. Call it as often as you like while all is well."""
        now = time.monotonic() if now is None else now
        if self._beat_s is not None and now >= self._beat_at:
            self._beat_at = now + self._beat_s
            self._send("WATCHDOG=1")

    def _note(self, status: str) -> str:
        self._status = status
        return status.replace("\n", " ")

    def _send(self, words: str) -> None:
        """No failure here is worth a request: it is logged, and the process goes on."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(SEND_TIMEOUT_S)
                sender.sendto(words.encode(), self._address)
        except OSError as error:
            log.warning("systemd cannot be told %r: %s", words, error)


def _address(name: str) -> str:
    """The socket's address; "@" begins an abstract one. Others (vsock) are for virtual machines."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _half(usec: str) -> float | None:
    """Half of WATCHDOG_USEC in seconds, as sd_watchdog_enabled(3) advises."""
    return int(usec) / 2e6 if usec.isdecimal() and int(usec) > 0 else None
