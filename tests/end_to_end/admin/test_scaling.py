"""Groups that grow and shrink under load: no request fails, and every frontend sees the same."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch("--workers", "1", "--frontends", "2", "--enable-admin", step_s=0.005)


def scale(server: Server, size: object, status: int = 200, **fields: object) -> httpx.Response:
    """On a connection of its own, which any frontend may have."""
    body = {"new_data_parallel_size": size, **fields}
    with server.new_client() as client:
        answer = client.post("/scale_elastic_ep", json=body)
    assert answer.status_code == status, answer.text
    return answer


def is_scaling(server: Server) -> bool:
    with server.new_client() as client:
        found: bool = client.post("/is_scaling_elastic_ep").json()["is_scaling_elastic_ep"]
        return found


def ask(server: Server, tokens: int = 20) -> str:
    body = {"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["text"]
    return found


def workers(server: Server) -> list[psutil.Process]:
    return server.children("headrace.workers.main")


def health(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/health?verbose").json()["groups"][0]
    return found


@contextmanager
def users(server: Server, tokens: int = 60, count: int = 8) -> Iterator[list[int]]:
    """Users who ask all the time and compare each text; how often, when they have ended."""
    text, over = ask(server, tokens), threading.Event()
    answers: list[int] = []

    def user() -> int:
        number = 0
        while not over.is_set():
            assert ask(server, tokens) == text
            number += 1
        return number

    with ThreadPoolExecutor(count) as threads:
        started = [threads.submit(user) for _ in range(count)]
        try:
            yield answers
        finally:
            over.set()
        answers += [each.result() for each in started]


def test_from_one_to_four_and_back_under_load(server: Server) -> None:
    with users(server) as answers:
        for size in (4, 2, 1):
            assert scale(server, size).json() == {
                "message": f"Scaled to {size} data parallel engines"
            }
            assert len(workers(server)) == size
            assert (health(server)["wanted"], health(server)["ready"]) == (size, size)
            assert not is_scaling(server)
    assert all(answers)


def test_the_same_size_again_changes_nothing(server: Server) -> None:
    scale(server, 2)
    before = [each.pid for each in workers(server)]
    scale(server, 2)
    assert [each.pid for each in workers(server)] == before
    scale(server, 1)


def test_long_requests_of_workers_that_go_are_replayed(server: Server) -> None:
    scale(server, 3)
    text = ask(server, 1500)
    with ThreadPoolExecutor(6) as threads:
        running = [threads.submit(ask, server, 1500) for _ in range(6)]
        wait_for(lambda: server.metric("headrace:num_requests_running") == 6, "running")
        scale(server, 1, drain_timeout=0.1)
        assert not all(each.done() for each in running)
        assert [each.result() for each in running] == [text] * 6


def test_twenty_cycles_leak_nothing(server: Server) -> None:
    scale(server, 1)
    launcher = psutil.Process(server.process.pid)
    coordinator = server.children("headrace.coordinator.main")[0]
    frontends = server.children("headrace.frontend.main")

    def held() -> list[int]:
        return [each.num_fds() for each in (launcher, coordinator, *frontends)]

    for size in (2, 1, 2, 1):  # what is made once is there
        scale(server, size)
    before, files = held(), sorted(server.run_dir.iterdir())
    for _ in range(20):
        scale(server, 2)
        scale(server, 1)
    assert len(workers(server)) == 1
    wait_for(lambda: all(n <= b + 2 for n, b in zip(held(), before, strict=True)), "descriptors")
    assert sorted(server.run_dir.iterdir()) == files
    assert ask(server)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"new_data_parallel_size": 0},
        {"new_data_parallel_size": "x"},
        {"new_data_parallel_size": 2, "drain_timeout": -1},
    ],
)
def test_bad_bodies_are_told_as_the_reference_does(server: Server, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{server.url}/scale_elastic_ep", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("Bad Request", None, 400)
    assert "new_data_parallel_size" in error["message"] or "drain_timeout" in error["message"]


def test_a_second_size_meanwhile_is_a_conflict(server: Server) -> None:
    scale(server, 2)
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(ask, server, 1500) for _ in range(2)]
        wait_for(lambda: server.metric("headrace:num_requests_running") == 2, "running")
        first = threads.submit(scale, server, 1)
        wait_for(lambda: is_scaling(server), "scaling")
        assert "already" in scale(server, 3, 409).json()["error"]["message"]
        for each in running:
            each.result()
        first.result()
    assert len(workers(server)) == 1


def test_a_coordinator_that_dies_goes_on_with_it(server: Server) -> None:
    scale(server, 2)
    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(ask, server, 1500) for _ in range(2)]
        wait_for(lambda: server.metric("headrace:num_requests_running") == 2, "running")
        scaled = threads.submit(scale, server, 1)
        wait_for(lambda: is_scaling(server), "scaling")
        server.children("headrace.coordinator.main")[0].kill()
        scaled.result()
        assert len({each.result() for each in running}) == 1
    assert len(workers(server)) == 1
    assert health(server)["wanted"] == 1


def test_a_worker_that_dies_meanwhile_is_replaced(server: Server) -> None:
    with users(server, count=2), ThreadPoolExecutor(1) as threads:
        scaled = threads.submit(scale, server, 3)
        wait_for(lambda: len(workers(server)) > 1, "another one")
        workers(server)[-1].send_signal(signal.SIGKILL)
        scaled.result()
    assert health(server)["ready"] == 3
    scale(server, 1)


def test_a_size_that_cannot_be_reached_keeps_the_old_one(launch: Launch, fake_model: Path) -> None:
    """The model is gone when the next worker wants to read it."""
    server = launch("--workers", "1", "--enable-admin")
    config = fake_model / "config.json"
    text = config.read_text()
    config.unlink()
    try:
        with users(server, count=2):
            message = scale(server, 3, 500).json()["error"]["message"]
    finally:
        config.write_text(text)
    assert "worker" in message
    assert "/" not in message
    wait_for(lambda: health(server)["status"] == "ready", "the old size")
    assert health(server)["wanted"] == 1
    scale(server, 2)
