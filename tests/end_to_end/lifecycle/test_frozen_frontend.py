"""Frontends that are frozen, and processes that only seem to be (fake engine)."""

import contextlib
import time

import httpx
import psutil
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

STALL_S = "3"


def serves(server: Server) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{server.url}/health", timeout=2).status_code == 200
    return False


def stream(server: Server) -> httpx.Response:
    """The beginning of a text that takes much longer than the test."""
    request = {"prompt": "hello", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    client = server.client
    return client.send(client.build_request("POST", "/v1/completions", json=request), stream=True)


def running(server: Server) -> float:
    return server.metric("headrace:num_requests_running")


def test_frozen_frontend_is_replaced_and_its_requests_end(launch: Launch) -> None:
    server = launch("--frontends", "1", "--workers", "1", "--stall-timeout", STALL_S, step_s=0.05)
    (frontend,) = server.children("headrace.frontend.main")
    answer = stream(server)
    wait_for(lambda: running(server) == 1, "it runs")
    frontend.suspend()
    wait_for(lambda: not frontend.is_running(), "it is killed")
    with contextlib.closing(answer), pytest.raises(httpx.HTTPError):
        answer.read()
    wait_for(lambda: serves(server), "another serves")
    wait_for(lambda: running(server) == 0, "the worker has dropped its request")
    assert "killing frontend-0.0: silent for 3 s" in server.log
    assert server.stop() == 0


def test_frontend_that_is_frozen_while_the_coordinator_dies_is_replaced(launch: Launch) -> None:
    server = launch("--frontends", "2", "--workers", "1", "--stall-timeout", STALL_S)
    frozen, _ = server.children("headrace.frontend.main")
    frozen.suspend()
    server.children("headrace.coordinator.main")[0].kill()
    wait_for(lambda: not frozen.is_running(), "it is killed")
    wait_for(lambda: len(server.children("headrace.frontend.main")) == 2, "another is there")
    assert server.stop() == 0


@pytest.mark.parametrize("goes_on_last", ["launcher", "coordinator"])
def test_pause_of_those_who_watch_kills_nobody(launch: Launch, goes_on_last: str) -> None:
    """As in a frozen container, of which some processes continue a little before the others."""
    server = launch("--frontends", "2", "--workers", "2", "--stall-timeout", STALL_S)
    family = server.children()
    (coordinator,) = server.children("headrace.coordinator.main")
    watchers = [psutil.Process(server.process.pid), coordinator]
    if goes_on_last == "launcher":
        watchers.reverse()
    for process in watchers:
        process.suspend()
    time.sleep(float(STALL_S) * 2)
    for process in watchers:
        process.resume()
        time.sleep(0.3)
    time.sleep(float(STALL_S))  # for whatever would be killed of it
    assert server.children() == family
    assert "killed" not in server.log
    assert serves(server)
