"""Whether what is said of the pool is true while its processes stop, hang and end (fake engine)."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

REQUEST = {"prompt": "hello", "ignore_eos": True}


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    flags = ("--stall-timeout", "1.5", "--start-timeout", "8")
    return launch("--frontends", "2", "--workers", "2", *flags, step_s=0.02)


def complete(server: Server, max_tokens: int = 5) -> httpx.Response:
    request = {**REQUEST, "max_tokens": max_tokens}
    with server.new_client() as client:
        return client.post("/v1/completions", json=request)


def health(server: Server) -> dict[str, Any]:
    """The group's part of the verbose answer."""
    answer = server.get("/health?verbose")
    assert answer.status_code == (503 if answer.json()["status"] == "unavailable" else 200)
    groups: list[dict[str, Any]] = answer.json()["groups"]
    (group,) = groups
    return group


def named(server: Server, process: psutil.Process) -> dict[str, Any] | None:
    """What is said of a worker's process."""
    with contextlib.suppress(psutil.Error, ValueError):
        command = process.cmdline()
        name = command[command.index("--worker-id") + 1]
        return next((each for each in health(server)["workers"] if each["name"] == name), None)
    return None


def test_worker_that_is_stopped_is_out_of_routing_then_replaced(server: Server) -> None:
    assert health(server)["status"] == "ready"
    victim = server.children("headrace.workers.main")[0]
    with ThreadPoolExecutor(8) as threads:
        requests = [threads.submit(complete, server, 150) for _ in range(8)]
        wait_for(lambda: server.metric("headrace:num_requests_running") == 8, "all run")
        victim.suspend()
        wait_for(lambda: health(server)["ready"] == 1, "it is out of routing")
        assert server.get("/health").status_code == 200
        assert {complete(server).status_code for _ in range(4)} == {200}
        assert {request.result().status_code for request in requests} == {200}
    wait_for(lambda: health(server)["status"] == "ready", "another is there")
    assert not victim.is_running()
    assert sorted(each["restarts"] for each in health(server)["workers"]) == [0, 1]


def test_worker_that_hangs_while_it_starts_is_replaced(server: Server) -> None:
    before = server.children("headrace.workers.main")
    before[0].kill()
    starting: list[psutil.Process] = []

    def caught() -> bool:
        now = server.children("headrace.workers.main")
        starting[:] = [each for each in now if each not in before]
        if starting:
            starting[0].suspend()
        return bool(starting)

    wait_for(caught, "another is started")
    wait_for(lambda: health(server)["ready"] == 1, "the dead one is gone")
    worker = named(server, starting[0])
    assert worker is not None
    assert worker["state"] == "starting"
    wait_for(lambda: not starting[0].is_running(), "it is killed")
    wait_for(lambda: health(server)["status"] == "ready", "a third is there")


def test_health_is_told_by_any_frontend_under_any_load(server: Server) -> None:
    with ThreadPoolExecutor(64) as threads:
        requests = [threads.submit(complete, server, 200) for _ in range(64)]
        wait_for(lambda: server.metric("headrace:num_requests_running") > 40, "it is busy")

        def all_run() -> bool:
            workers = health(server)["workers"]
            return all(each["running"] > 0 and each["steps"] > 0 for each in workers)

        wait_for(all_run, "each worker's heartbeat shows it")
        for path in ("/health", "/livez", "/ping"):
            assert {server.get(path).status_code for _ in range(4)} == {200}
        assert {request.result().status_code for request in requests} == {200}


def test_load_is_the_pools_whichever_frontend_is_asked(server: Server) -> None:
    with ThreadPoolExecutor(6) as threads:
        requests = [threads.submit(complete, server, 400) for _ in range(6)]
        wait_for(lambda: server.metric("headrace:num_requests_running") == 6, "all run")
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.new_client()) for _ in range(4)]
            loads = [client.get("/load").json() for client in clients]
        assert loads == [{"server_load": 6}] * 4

        def is_told_of_each() -> bool:
            """What processes say of themselves comes with their heartbeats."""
            verbose = server.get("/load?verbose").json()
            (group,) = verbose["groups"]
            by_worker = sum(each["running"] for each in group["workers"])
            by_frontend = sum(each["in_flight"] for each in verbose["frontends"])
            counts = (verbose["server_load"], group["running"], by_worker, by_frontend)
            return counts == (6, 6, 6, 6)

        wait_for(is_told_of_each, "the parts make the whole")
        assert all(request.result().status_code == 200 for request in requests)
    wait_for(lambda: server.get("/load").json()["server_load"] == 0, "none is left")


def test_load_says_the_same_of_what_has_just_begun_or_ended(server: Server) -> None:
    body = {"prompt": "hello", "max_tokens": 400, "ignore_eos": True, "stream": True}
    for _ in range(5):
        with server.client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()  # to let go of it would close the connection
            next(lines)
            assert loads(server) == (1, 1, 1)
        while (found := loads(server)) != (0, 0, 0):
            assert found[0] > 0, "nothing runs beside a load of 0"


def loads(server: Server) -> tuple[int, int, int]:
    """The load of the pool: in all, by its workers, by its frontends."""
    verbose = server.get("/load?verbose").json()
    workers = [worker for group in verbose["groups"] for worker in group["workers"]]
    by_worker = sum(worker["running"] + worker["waiting"] for worker in workers)
    by_frontend = sum(frontend["in_flight"] for frontend in verbose["frontends"])
    return verbose["server_load"], by_worker, by_frontend


def test_readiness_ends_with_the_signal_while_requests_are_finished(server: Server) -> None:
    """Last of this module: it ends the pool.

    A stream that the test gives up keeps the pool from ending for as long as a busy machine needs
    to answer all the rest.
    """
    long = {**REQUEST, "max_tokens": 2000, "stream": True}
    with ThreadPoolExecutor(5) as threads:
        with server.client.stream("POST", "/v1/completions", json=long) as stream:
            events = stream.iter_lines()
            next(events)
            requests = [threads.submit(complete, server, 200) for _ in range(5)]
            wait_for(lambda: server.metric("headrace:num_requests_running") == 6, "all run")
            statuses: list[int] = []
            server.process.terminate()

            def not_ready() -> bool:
                statuses.append(server.get("/health").status_code)
                return statuses[-4:] == [503] * 4

            wait_for(not_ready, "it says so")
            assert server.get("/livez").status_code == 200
            assert server.get("/health?verbose").json()["status"] == "stopping"
            rejected = complete(server)
            assert rejected.status_code == 503
            assert rejected.headers["Retry-After"] == "1"
            assert {request.result().status_code for request in requests} == {200}
            assert "[DONE]" not in next(events)
        assert server.stop() == 0
