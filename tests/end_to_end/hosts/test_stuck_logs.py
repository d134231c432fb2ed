"""A pool whose log leads to a pipe that nobody reads, or to a full disk."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.end_to_end.clients import clients
from tests.end_to_end.servers import Launch, Server, wait_for
from tests.small_file_systems import fill, small_tmpfs

FLAGS = ("--frontends", "2", "--workers", "2", "--log-level", "debug")


def survive(server: Server) -> None:
    """Serve, be rolled and stop, all of which each process logs."""
    before = server.children("headrace.frontend.main")
    with clients(server, 4) as asking:
        server.children("headrace.workers.main")[0].kill()
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: not any(each.is_running() for each in before), "all are replaced", 60)
        answered = asking.outcomes["whole"]
        wait_for(lambda: asking.outcomes["whole"] > answered + 200, "requests are answered")
    assert set(asking.outcomes) == {"whole"}
    assert server.stop() == 0


def logs_to(file: Path) -> list[str]:
    return ["sh", "-c", f'exec "$@" 2>>{file}', "sh"]


@pytest.mark.parametrize("room", [0, 100])
def test_nobody_reads_the_log(launch: Launch, tmp_path: Path, room: int) -> None:
    """The pipe is full, or nearly: then each line may be the one too many."""
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while os.write(reader, b"x" * 4096):
            pass
    if room:
        os.read(reader, 2 * 4096)
    survive(launch(*FLAGS, wrapper=logs_to(fifo)))
    os.close(reader)


def test_the_log_is_on_a_full_disk(launch: Launch, tmp_path: Path) -> None:
    with small_tmpfs(tmp_path / "small", 1 << 20) as folder:
        fill(folder)
        survive(launch(*FLAGS, wrapper=logs_to(folder / "log")))
