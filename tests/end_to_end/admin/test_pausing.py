"""Pause and resume over real processes: nothing is begun meanwhile, and nothing is lost."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

STALL_S = 1.0


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    pool = ["--workers", "2", "--frontends", "2", "--stall-timeout", str(STALL_S)]
    return launch(*pool, "--enable-admin", step_s=0.005)


@pytest.fixture(autouse=True)
def resumed(server: Server) -> Iterator[None]:
    yield
    post(server, "/resume")
    wait_for(lambda: load(server) == (0, 0), "nothing left of this test")


def post(server: Server, path: str, status: int = 200) -> Any:
    with server.new_client() as client:
        answer = client.post(path)
    assert answer.status_code == status, answer.text
    return answer.json()


def complete(server: Server, tokens: int = 8, **headers: str) -> httpx.Response:
    body = {"prompt": [5, 6, 7], "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    return httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=60)


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["text"]
    return found


def load(server: Server) -> tuple[float, float]:
    group = server.get("/load?verbose").json()["groups"][0]
    return group["running"], group["waiting"]


def is_paused(server: Server) -> bool:
    found: bool = server.get("/is_paused").json()["is_paused"]
    return found


def test_requests_wait_and_are_answered_after_resume(server: Server) -> None:
    text = text_of(complete(server))
    for _ in range(2):
        assert post(server, "/pause") == {"status": "paused"}
        assert is_paused(server)
    with ThreadPoolExecutor(6) as threads:
        waiting = [threads.submit(complete, server) for _ in range(6)]
        wait_for(lambda: load(server) == (0, 6), "six waiting")
        late = complete(server, 5, **{"X-Request-Timeout-Ms": "200"})
        assert late.status_code == 504
        for _ in range(2):
            assert post(server, "/resume") == {"status": "resumed"}
            assert not is_paused(server)
        assert [text_of(each.result()) for each in waiting] == [text] * 6


def test_a_paused_pool_is_healthy_and_not_stalled(server: Server) -> None:
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(complete, server, 300) for _ in range(2)]
        wait_for(lambda: load(server)[0] == 2, "running")
        post(server, "/pause?mode=keep")
        pids = [each.pid for each in server.children("headrace.workers.main")]
        steps = [each["value"]["steps"] for each in stats(server)]
        time.sleep(3 * STALL_S)
        assert [each["value"]["steps"] for each in stats(server)] == steps
        assert [each.pid for each in server.children("headrace.workers.main")] == pids
        health = server.get("/health?verbose")
        assert health.status_code == 200
        assert health.json()["status"] == "paused"
        assert health.json()["groups"][0]["paused"] == 2
        assert not any(each.done() for each in running)
        post(server, "/resume")
        texts = {text_of(each.result()) for each in running}
    assert texts == {text_of(complete(server, 300))}


def stats(server: Server) -> list[dict[str, Any]]:
    body = {"method": "stats"}
    answer = httpx.post(f"{server.url}/collective_rpc?verbose", json=body, timeout=60)
    found: list[dict[str, Any]] = answer.json()["workers"]
    return found


def test_running_ones_are_finished_first(server: Server) -> None:
    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(complete, server, 200) for _ in range(2)]
        wait_for(lambda: load(server)[0] == 2, "running")
        message = post(server, "/pause?mode=wait&timeout=0.05", 500)["error"]["message"]
        assert "still running" in message
        wait_for(lambda: not is_paused(server), "not paused")
        post(server, "/pause?mode=wait")
        assert all(each.result().status_code == 200 for each in running)
        assert is_paused(server)


def test_running_ones_are_ended_and_told_so(server: Server) -> None:
    body = {"prompt": [5, 6, 7], "max_tokens": 1000, "ignore_eos": True, "stream": True}

    begun = threading.Event()

    def stream() -> list[str]:
        url = f"{server.url}/v1/completions"
        with httpx.stream("POST", url, json=body, timeout=60) as answer:
            begun.set()
            return [line for line in answer.iter_lines() if line]

    with ThreadPoolExecutor(2) as threads:
        whole, streamed = threads.submit(complete, server, 1000), threads.submit(stream)
        # Before its first event, a stream's answer can still be an error with a status.
        assert begun.wait(60)
        wait_for(lambda: load(server)[0] == 2, "running")
        post(server, "/pause?mode=abort")
        assert whole.result().status_code == 503
        lines = streamed.result()
    assert lines[-1] == "data: [DONE]"
    assert sum('"error"' in line for line in lines) == 1


def test_one_worker_is_spared_while_the_other_goes_on(server: Server) -> None:
    post(server, "/pause?worker=default-0")
    assert not is_paused(server)
    assert server.get("/is_paused?worker=default-0").json() == {"is_paused": True}
    for _ in range(6):
        assert text_of(complete(server))
    workers = server.get("/is_paused?verbose").json()["workers"]
    assert [each["is_paused"] for each in workers] == [True, False]


def test_who_is_started_meanwhile_is_paused_and_loses_nothing(server: Server) -> None:
    text = text_of(complete(server, 300))
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(complete, server, 300) for _ in range(4)]
        wait_for(lambda: load(server)[0] == 4, "running")
        post(server, "/pause?mode=keep")
        for victim in server.children("headrace.workers.main"):
            victim.send_signal(signal.SIGKILL)
            wait_for(lambda: victim.pid not in pids(server), "gone")  # noqa: B023
        server.children("headrace.coordinator.main")[0].send_signal(signal.SIGKILL)
        wait_for(lambda: all_paused(server), "both paused again")
        assert not any(each.done() for each in running)
        post(server, "/resume")
        assert [text_of(each.result()) for each in running] == [text] * 4


def pids(server: Server) -> list[int]:
    return [each.pid for each in server.children("headrace.workers.main")]


def all_paused(server: Server) -> bool:
    answer = server.get("/is_paused?verbose")
    return answer.status_code == 200 and [
        each["is_paused"] for each in answer.json()["workers"]
    ] == [True, True]


def test_a_rolling_restart_of_a_paused_pool_loses_nothing(server: Server) -> None:
    text, before = text_of(complete(server, 300)), set(pids(server))
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(complete, server, 300) for _ in range(2)]
        wait_for(lambda: load(server)[0] == 2, "running")
        post(server, "/pause?mode=keep")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: before.isdisjoint(pids(server)), "replaced", timeout_s=60)
        wait_for(lambda: all_paused(server), "paused again")
        post(server, "/resume")
        assert [text_of(each.result()) for each in running] == [text] * 2


@pytest.mark.parametrize(
    ("query", "said"),
    [("mode=freeze", "mode"), ("timeout=-1", "timeout"), ("clear_cache=x", "clear")],
)
def test_bad_queries_are_named(server: Server, query: str, said: str) -> None:
    assert said in post(server, f"/pause?{query}", 400)["error"]["message"]
    assert not is_paused(server)
