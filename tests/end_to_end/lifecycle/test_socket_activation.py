"""`headrace serve` as systemd starts it: with a socket that is bound already, and told of (fake
engine)."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.end_to_end.lifecycle.fake_systemd import NotifySocket, passing
from tests.end_to_end.servers import wait_for

HEADRACE = str(Path(sys.executable).with_name("headrace"))

activate = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="systemd-socket-activate is not installed (Debian: apt-get install systemd)",
)


@pytest.fixture
def systemd() -> Iterator[NotifySocket]:
    notify = NotifySocket()
    yield notify
    notify.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def variables(cache_dir: Path, systemd: NotifySocket) -> dict[str, str]:
    return {
        "HEADRACE_CACHE": str(cache_dir),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "NOTIFY_SOCKET": str(systemd.path),
        "WATCHDOG_USEC": "1000000",
    }


@activate
def test_first_connection_starts_the_pool_and_is_served(
    fake_model: Path, cache_dir: Path, tmp_path: Path, systemd: NotifySocket
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    command = ["systemd-socket-activate", "--listen", url.removeprefix("http://")]
    for name, value in variables(cache_dir, systemd).items():
        command += ["--setenv", f"{name}={value}"]
    command += [HEADRACE, "serve", "--engine", "fake", "--model", str(fake_model)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: "Listening" in (tmp_path / "log").read_text(), "it listens")
        assert systemd.words == []  # nothing runs yet
        # Sent before anything runs: it waits in the socket until a frontend takes it.
        request = {"prompt": "hello", "max_tokens": 5}
        answer = httpx.post(f"{url}/v1/completions", json=request, timeout=90)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["text"]
        systemd.wait_for("READY=1")
        assert systemd.words[0] == "STATUS=preparing models"
        assert "1 of 1 workers ready, 2 of 2 frontends" in systemd.status
        check_watchdog(systemd)
        children = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        systemd.wait_for("STOPPING=1", timeout_s=1)
        assert systemd.status.startswith("stopping")
        assert not any(child.is_running() for child in children)
    finally:
        process.kill()
        process.wait()
    assert f"at {url}" in (tmp_path / "log").read_text()


def check_watchdog(systemd: NotifySocket) -> None:
    """Fed again and again, by the launcher alone, and not all the time."""
    systemd.forget()
    wait_for(lambda: systemd.words.count("WATCHDOG=1") >= 3, "to be fed")
    assert systemd.words.count("WATCHDOG=1") <= 4


@activate
def test_stopped_launcher_feeds_no_watchdog(
    fake_model: Path, cache_dir: Path, systemd: NotifySocket
) -> None:
    flags = ["--engine", "fake", "--model", str(fake_model), "--port", "0"]
    process = subprocess.Popen(
        [HEADRACE, "serve", *flags],
        env=os.environ | variables(cache_dir, systemd),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        systemd.wait_for("READY=1")
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        systemd.forget()
        assert systemd.words == []
        time.sleep(1.5)
        assert systemd.words == []
        process.send_signal(signal.SIGCONT)
        systemd.wait_for("WATCHDOG=1", timeout_s=2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("flags", "count", "named"),
    [
        (["--port", "8000"], 1, "--port: the socket comes from systemd"),
        ([], 2, "LISTEN_FDS: 2 sockets were passed"),
        ([], 1, "LISTEN_FDS: what was passed is not a listening stream socket"),
    ],
)
def test_wrong_socket_says_so_in_one_line(
    fake_model: Path, flags: list[str], count: int, named: str
) -> None:
    with socket.socket() as passed:
        if flags:
            passed.bind(("127.0.0.1", 0))
            passed.listen()
        command = [HEADRACE, "serve", "--model", str(fake_model), *flags]
        done = subprocess.run(
            passing(passed, command, count),
            pass_fds=[passed.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"headrace: error: {named}")
