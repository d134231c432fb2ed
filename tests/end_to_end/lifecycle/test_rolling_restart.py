"""SIGHUP to the launcher replaces all workers and frontends while clients ask on (fake engine)."""

import signal
import threading

import psutil
import pytest

from tests.end_to_end.clients import clients
from tests.end_to_end.servers import Launch, Server, wait_for


def pool(server: Server) -> list[psutil.Process]:
    return server.children("headrace.frontend.main") + server.children("headrace.workers.main")


def roll(server: Server) -> None:
    """A rolling restart, to its end: all that ran before is gone."""
    before, rolls = pool(server), server.log.count("rolling restart: done")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: server.log.count("rolling restart: done") > rolls, "it is done", 60)
    wait_for(lambda: not any(each.is_running() for each in before), "the old ones are gone", 30)
    assert len(pool(server)) == len(before)


@pytest.mark.parametrize(("frontends", "workers"), [(2, 2), (1, 1)])
def test_rolling_restart_under_load_fails_no_request(
    launch: Launch, frontends: int, workers: int
) -> None:
    counts = ("--frontends", str(frontends), "--workers", str(workers))
    server = launch(*counts, step_s=0.01)
    with clients(server, 8) as asking:
        wait_for(lambda: asking.outcomes["whole"] > 8, "all have been answered")
        roll(server)
        answered = asking.outcomes["whole"]
        wait_for(lambda: asking.outcomes["whole"] > answered + 8, "all are answered still")
    assert set(asking.outcomes) == {"whole"}
    assert "ended (" not in server.log  # what was asked to end is no failure
    assert "exited with" not in server.log
    wait_for(lambda: server.metric("headrace:num_requests_running") == 0, "nothing is left")
    assert server.stop() == 0


def test_requests_longer_than_the_drain_go_on_elsewhere_and_frontends_wait(launch: Launch) -> None:
    """A worker has --shutdown-timeout to finish; a frontend has clients that cannot be moved, and
    as much time as they need."""
    flags = ("--frontends", "2", "--workers", "2", "--shutdown-timeout", "1")
    server = launch(*flags, step_s=0.02)
    texts: list[str] = []

    def ask() -> None:
        body = {"prompt": "hello", "max_tokens": 500, "ignore_eos": True}
        with server.new_client() as client:
            texts.append(client.post("/v1/completions", json=body).json()["choices"][0]["text"])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: server.metric("headrace:num_requests_running") == 4, "all run")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "rolling restart: done" in server.log, "it is done", 60)
    assert server.metric("headrace:request_replays_total") >= 4
    for thread in threads:
        thread.join(60)
    assert len(texts) == 4
    assert len(set(texts)) == 1
    ask()
    assert len(set(texts)) == 1
    assert server.stop() == 0


def test_signal_ends_a_pool_that_is_rolling(launch: Launch) -> None:
    server = launch("--frontends", "2", "--workers", "2")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "rolling restart: workers" in server.log, "it has begun")
    everyone = server.children()
    assert server.stop() == 0
    assert not any(each.is_running() for each in everyone)
