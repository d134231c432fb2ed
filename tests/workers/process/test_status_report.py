"""What a worker tells systemd, above all when not to feed the watchdog."""

import socket
from pathlib import Path

import pytest

from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.state import WorkerLoad
from headrace.workers.process.status_report import StatusReport


def load(running: int = 0, step_age_s: float = 0.0) -> WorkerLoad:
    return WorkerLoad(running, 1, 0.25, 5, step_age_s)


@pytest.mark.parametrize(
    ("step_age_s", "is_fed"), [(0.0, True), (9.9, True), (10.1, False), (600.0, False)]
)
def test_frozen_engine_feeds_no_watchdog(tmp_path: Path, step_age_s: float, is_fed: bool) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(1.0)
        notifier = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000000"})
        report = StatusReport(notifier, stall_timeout_s=10.0)
        report.ready()
        report.beat(load(2, step_age_s))
        report.draining(2)
        told = [systemd.recv(4096).decode() for _ in range(5 if is_fed else 4)]
    assert told == [
        "STATUS=loading the model",
        "READY=1\nSTATUS=ready",
        *["WATCHDOG=1"] * is_fed,
        "STATUS=ready, 2 requests running, 1 waiting, 25% of the cache in use",
        "STOPPING=1\nSTATUS=finishing 2 requests",
    ]
