"""What goes on in good order is not logged as a failure (fake engine)."""

import re
import signal
import time

import pytest

from tests.end_to_end.clients import clients
from tests.end_to_end.servers import Launch, Server

FAILURES = re.compile(r"^\S+ (?:WARNING|ERROR|CRITICAL) .*", re.MULTILINE)
FLAGS = ("--frontends", "3", "--workers", "3")


def unreachable(server: Server) -> list[str]:
    return [line for line in FAILURES.findall(server.log) if "reach" in line]


def test_rolling_restarts_under_load_find_all_reachable(launch: Launch) -> None:
    server = launch(*FLAGS, "--enable-admin", step_s=0.005)
    with clients(server, 4) as asking:
        server.process.send_signal(signal.SIGHUP)
        # Calls that go to all workers meet those that are just starting or ending.
        while "rolling restart: done" not in server.log:
            server.client.post("/resume")
            time.sleep(0.05)
    assert set(asking.outcomes) == {"whole"}
    assert server.stop() == 0
    assert unreachable(server) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_is_quiet(launch: Launch, number: signal.Signals) -> None:
    for _ in range(2):
        server = launch(*FLAGS)
        server.client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 5})
        assert server.stop(number) == 0
        assert FAILURES.findall(server.log) == []
