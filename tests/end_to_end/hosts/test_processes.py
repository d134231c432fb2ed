"""A user, not root, who may have no further process or thread when a worker must be restarted."""

import os
import resource
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.clients import clients
from tests.end_to_end.servers import Launch, Server, wait_for

# No other process has it. It may read what only root may, such as the interpreter, and no more.
USER = 54321
READ = "-all,+dac_read_search"
WRAPPER = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
WRAPPER += ["--inh-caps", READ, "--ambient-caps", READ, "--bounding-set", READ]
FLAGS = ("--frontends", "2", "--workers", "2")


@contextmanager
def no_processes(chosen: Iterable[psutil.Process]) -> Iterator[None]:
    """Let processes start no process and no thread."""
    pids = [each.pid for each in chosen]
    before = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    _limit_processes(pids, 1)
    try:
        yield
    finally:
        _limit_processes([pid for pid in pids if psutil.pid_exists(pid)], before)


def _limit_processes(pids: list[int], count: int) -> None:
    """Set the soft limit of processes, as their user: root may not be permitted to."""
    shown = "unlimited" if count == resource.RLIM_INFINITY else str(count)
    for pid in pids:
        command = ["prlimit", "--pid", str(pid), f"--nproc={shown}:"]
        subprocess.run([*WRAPPER, *command], check=True)


def is_whole(server: Server) -> bool:
    groups = server.get("/health?verbose").json()["groups"]
    return bool(sum(group["ready"] for group in groups) == 2)


def test_the_launcher_starts_others_later(launch: Launch, tmp_path: Path) -> None:
    if (
        os.getuid()
        or subprocess.run([*WRAPPER, "prlimit"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs root, to run a pool as another user")
    launch().stop()  # prepares the model
    folder = tmp_path / "run"
    folder.mkdir()
    os.chown(folder, USER, USER)
    server = launch(*FLAGS, wrapper=WRAPPER, run_dir=folder / "pool")
    launcher = psutil.Process(server.process.pid)
    assert launcher.uids().real == USER
    with clients(server, 2) as asking:
        with no_processes([launcher, *server.children()]):
            server.children("headrace.workers.main")[0].kill()
            wait_for(lambda: "cannot be started" in server.log, "the system refuses it")
            answered = asking.outcomes["whole"]
            wait_for(lambda: asking.outcomes["whole"] > answered + 30, "requests are answered")
        wait_for(lambda: is_whole(server), "another worker", 60)
    assert set(asking.outcomes) == {"whole"}
    assert launcher.is_running()
    refused = [line for line in server.log.splitlines() if "cannot be started" in line]
    assert all("Resource temporarily unavailable" in line for line in refused)
    assert server.stop() == 0
    assert "Traceback" not in server.log
