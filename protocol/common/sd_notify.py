"""Reports of a process's state to systemd (sd_notify(3)); without systemd, to nobody.

Each report is one datagram to the socket that NOTIFY_SOCKET names.
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger("headrace.sd_notify")

# systemd may be slow to read (while it reloads its units, say). Only reports that are sent once
# wait for it.
SEND_TIMEOUT_S = 1.0


class Notifier:
    """Sends READY, STOPPING, STATUS and WATCHDOG of this process.

    It removes its variables from the environment, so that no child reports for this process.
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
        """Whether systemd wants reports."""
        return bool(self._address)

    @property
    def beat_s(self) -> float | None:
        """The seconds within which `alive` must be called; None: there is no watchdog."""
        return self._beat_s if self.is_heard else None

    def ready(self, status: str) -> None:
        """Report that this process serves."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}", SEND_TIMEOUT_S)

    def stopping(self, status: str = "stopping") -> None:
        """Report that this process is stopping; later calls of `status` send nothing."""
        if not self._stopping:
            self._stopping = True
            self._send(f"STOPPING=1\nSTATUS={_one_line(status)}", SEND_TIMEOUT_S)

    def status(self, status: str) -> None:
        """Send one line for `systemctl status`, if it differs from the last one."""
        is_done = status == self._status or self._stopping
        if not is_done and self._send(f"STATUS={_one_line(status)}"):
            self._status = status

    def alive(self, now: float | None = None) -> None:
        """Feed the watchdog, if it is time to. Call it as often as you like while all is well."""
        now = time.monotonic() if now is None else now
        if self._beat_s is not None and now >= self._beat_at and self._send("WATCHDOG=1"):
            self._beat_at = now + self._beat_s

    def _send(self, report: str, timeout_s: float = 0.0) -> bool:
        """Return whether a report was sent. No failure here is worth a request."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(timeout_s)
                sender.sendto(report.encode(), self._address)
        except BlockingIOError:
            return False  # sent with the next try
        except OSError as error:
            log.warning("cannot send %r to systemd: %s", report, error)
            return False
        return True


def _address(name: str) -> str:
    """Return the socket's address ("@": an abstract one); "" for others, of virtual machines."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _one_line(status: str) -> str:
    return status.replace("\n", " ")


def _half(usec: str) -> float | None:
    """Return half of WATCHDOG_USEC in seconds, as sd_watchdog_enabled(3) advises."""
    return int(usec) / 2e6 if usec.isdecimal() and int(usec) > 0 else None
