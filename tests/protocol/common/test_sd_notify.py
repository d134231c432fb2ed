"""The messages that systemd gets, and when it gets none."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.protocol.common.sd_notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A NOTIFY_SOCKET of either kind, and the end that systemd reads."""
    path = tmp_path / "notify"
    name = str(path) if request.param == "path" else f"@{path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1))
        receiver.setblocking(False)
        yield name, receiver


def received(receiver: socket.socket) -> list[str]:
    words = []
    while True:
        try:
            words.append(receiver.recv(4096).decode())
        except BlockingIOError:
            return words


def test_tells_from_start_to_end(systemd: tuple[str, socket.socket]) -> None:
    name, receiver = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.status("loading")
    notifier.status("loading")
    notifier.ready("two\nlines")
    notifier.stopping("finishing")
    notifier.stopping("finishing")
    notifier.status("never mind")
    notifier.alive()
    assert received(receiver) == [
        "STATUS=loading",
        "READY=1\nSTATUS=two lines",
        "STOPPING=1\nSTATUS=finishing",
    ]


def test_busy_systemd_holds_nobody_up(systemd: tuple[str, socket.socket]) -> None:
    name, receiver = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1"})
    begun = time.monotonic()
    for number in range(2000):  # more than any queue takes
        notifier.status(f"status {number}")
        notifier.alive(float(number))
    assert time.monotonic() - begun < 1.0
    received(receiver)
    notifier.status("status 1999")
    notifier.alive(3000.0)
    assert received(receiver) == ["STATUS=status 1999", "WATCHDOG=1"]


def test_watchdog_is_fed_at_half_of_its_time(systemd: tuple[str, socket.socket]) -> None:
    name, receiver = systemd
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "10000000", "OTHER": "stays"}
    notifier = Notifier(environment)
    assert environment == {"OTHER": "stays"}
    assert notifier.beat_s == 5.0
    for now in (100.0, 102.0, 104.9, 105.0, 106.0, 110.0):
        notifier.alive(now)
    assert received(receiver) == ["WATCHDOG=1"] * 3


@pytest.mark.parametrize(
    ("usec", "pid"), [("", ""), ("0", ""), ("-5", ""), ("soon", ""), ("1000000", "1")]
)
def test_no_watchdog(systemd: tuple[str, socket.socket], usec: str, pid: str) -> None:
    """None is set, what is set is no time, or it is another process's."""
    name, receiver = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid})
    notifier.alive()
    assert notifier.beat_s is None
    assert received(receiver) == []


def test_own_pid_has_the_watchdog(systemd: tuple[str, socket.socket]) -> None:
    name, _receiver = systemd
    mine = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
    assert Notifier(mine).beat_s == 0.5


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "relative/path", "/does/not/exist/notify"])
def test_nobody_to_tell_is_no_failure(name: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000"})
    notifier.ready("serving")
    notifier.alive()
    notifier.stopping()
    assert notifier.is_heard == name.startswith("/")
