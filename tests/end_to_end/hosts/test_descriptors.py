"""Processes that have no descriptors left for a while."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.clients import clients
from tests.end_to_end.servers import Launch, Server, wait_for

FLAGS = ("--frontends", "2", "--workers", "2")


@contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """Let a process open no further descriptor."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    numbers = [int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()]
    free = min(set(range(max(numbers) + 2)) - set(numbers))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def is_whole(server: Server) -> bool:
    groups = server.get("/health?verbose").json()["groups"]
    return sum(int(group["ready"]) for group in groups) == 2


def test_a_launcher_without_descriptors_starts_others_later(launch: Launch) -> None:
    server = launch(*FLAGS)
    launcher = psutil.Process(server.process.pid)
    with clients(server, 2) as asking:
        with no_descriptors(launcher.pid):
            server.children("headrace.workers.main")[0].kill()
            wait_for(lambda: "cannot be started" in server.log, "the system refuses it")
            answered = asking.outcomes["whole"]
            wait_for(lambda: asking.outcomes["whole"] > answered + 30, "requests are answered")
        wait_for(lambda: is_whole(server), "another worker", 60)
    assert set(asking.outcomes) == {"whole"}
    assert launcher.is_running()
    assert server.stop() == 0
    assert "Traceback" not in server.log


@pytest.mark.parametrize("module", ["coordinator", "workers", "frontend"])
def test_others_live_on(launch: Launch, module: str) -> None:
    server = launch(*FLAGS)
    chosen = server.children(f"headrace.{module}.main")[0]
    before = [each.pid for each in server.children()]
    with clients(server, 4) as asking:
        wait_for(lambda: asking.outcomes["whole"] > 20, "all ask")
        with no_descriptors(chosen.pid):
            for _ in range(10):
                assert server.get("/v1/models").status_code == 200
                server.get("/metrics")
            answered = asking.outcomes["whole"]
            wait_for(lambda: asking.outcomes["whole"] > answered + 30, "requests are answered")
        assert server.get("/metrics").status_code == 200
    assert set(asking.outcomes) == {"whole"}
    assert [each.pid for each in server.children()] == before
    assert server.stop() == 0
