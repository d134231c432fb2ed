"""A run directory without space: the pool serves, and loses its metrics for the time being."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.clients import Clients, clients
from tests.end_to_end.servers import Launch, Server, wait_for
from tests.small_file_systems import fill, small_tmpfs

SIZE = 3 << 20
FLAGS = ("--frontends", "2", "--workers", "2")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_tmpfs(tmp_path / "small", SIZE) as folder:
        yield folder


def all_processes(server: Server) -> list[psutil.Process]:
    return [psutil.Process(server.process.pid), *server.children()]


def more_answers(asking: Clients, count: int = 30) -> None:
    answered = asking.outcomes["whole"]
    wait_for(lambda: asking.outcomes["whole"] > answered + count, "requests are answered")


def test_a_run_directory_that_fills_up_costs_no_request(launch: Launch, small_disk: Path) -> None:
    server = launch(*FLAGS, run_dir=small_disk / "run")
    before = all_processes(server)
    with clients(server, 8) as asking:
        more_answers(asking)
        filler = fill(small_disk)
        more_answers(asking)
        for number in range(300):  # series that need room in the files of metrics
            body = {"prompt": "hello", "max_tokens": 1, "user": f"tenant-{number}"}
            assert server.client.post("/v1/completions", json=body).status_code == 200
        more_answers(asking)
        assert server.get("/metrics").status_code == 200
        filler.unlink()
        more_answers(asking)
    assert set(asking.outcomes) == {"whole"}
    assert [each.pid for each in all_processes(server)] == [each.pid for each in before]
    assert server.stop() == 0


def kill_one(server: Server, module: str) -> None:
    """Kill a process that runs the module, and wait until another runs in its place."""
    first, count = server.children(module)[0], len(server.children(module))
    first.kill()
    wait_for(lambda: not first.is_running(), "it is gone")
    wait_for(lambda: len(server.children(module)) == count, "another runs")


def test_processes_start_on_a_full_disk(launch: Launch, small_disk: Path) -> None:
    """A worker, a frontend and a coordinator that die, and a rolling restart of all."""
    server = launch(*FLAGS, run_dir=small_disk / "run")
    filler = fill(small_disk)
    with clients(server, 4) as asking:
        more_answers(asking)
        for module in ("headrace.coordinator.main", "headrace.workers.main"):
            kill_one(server, module)
        wait_for(lambda: server.get("/health").status_code == 200, "the pool is whole")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "rolling restart: done" in server.log, "it is done", 60)
        more_answers(asking)
    assert set(asking.outcomes) == {"whole"}
    assert (
        server.log.count("metrics are incomplete until there is space")
        <= len(server.children()) + 8
    ), "one warning for each process"
    filler.unlink()

    def counted() -> float:
        return server.metric("headrace:request_success_total")

    server.client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 1})
    wait_for(lambda: counted() > 0, "metrics come back", 15)
    assert server.stop() == 0


def test_a_pool_that_cannot_start_for_lack_of_space_says_so(launch: Launch, tmp_path: Path) -> None:
    with small_tmpfs(tmp_path / "small", SIZE) as folder:
        filler = fill(folder)
        with pytest.raises(AssertionError, match="No space left on device") as raised:
            launch(*FLAGS, run_dir=folder / "run")
        assert "Traceback" not in str(raised.value)
        filler.unlink()
