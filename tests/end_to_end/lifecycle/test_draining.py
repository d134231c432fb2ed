"""Workers that go and that come under load: whatever is killed at whatever moment, every request is
answered as it would have been."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    flags = ("--workers", "1", "--frontends", "2", "--enable-admin", "--max-num-seqs", "2")
    return launch(*flags, step_s=0.005)


def ask(server: Server, tokens: int = 120) -> str:
    body = {"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["text"]
    return found


def scale(server: Server, size: int, **fields: float) -> None:
    body = {"new_data_parallel_size": size, **fields}
    answer = httpx.post(f"{server.url}/scale_elastic_ep", json=body, timeout=120)
    assert answer.status_code == 200, answer.text


def states(server: Server) -> dict[str, dict[str, Any]]:
    group = server.get("/health?verbose").json()["groups"][0]
    return {each["name"].partition(".")[0]: each for each in group["workers"]}


def kill(server: Server, slot: str) -> None:
    for process in server.children("headrace.workers.main"):
        if f"{slot}." in " ".join(process.cmdline()):
            process.kill()


def begin(server: Server, threads: ThreadPoolExecutor, count: int) -> "list[Future[str]]":
    """So many requests, of which some run."""
    asked = [threads.submit(ask, server) for _ in range(count)]
    wait_for(lambda: sum(each["running"] for each in states(server).values()) > 0, "running")
    return asked


def test_what_waits_goes_to_a_worker_that_comes(server: Server) -> None:
    text = ask(server)
    with ThreadPoolExecutor(12) as threads:
        asked = begin(server, threads, 12)
        wait_for(lambda: states(server)["default-0"]["waiting"] >= 8, "a queue")
        scale(server, 2)
        wait_for(lambda: states(server)["default-1"]["running"] == 2, "its share")
        assert [each.result() for each in asked] == [text] * 12
    assert server.metric("headrace:request_replays_total") == 0
    scale(server, 1)


@pytest.mark.parametrize("moment", ["at once", "while it drains", "with its last"])
def test_a_worker_is_killed_while_it_drains(server: Server, moment: str) -> None:
    text = ask(server)
    scale(server, 2)
    with ThreadPoolExecutor(9) as threads:
        asked = begin(server, threads, 8)
        wait_for(lambda: states(server)["default-1"]["running"], "its share")
        scaled = threads.submit(scale, server, 1)
        if moment != "at once":
            wait_for(lambda: states(server)["default-1"]["state"] == "draining", "to drain")
        if moment == "with its last":
            left = "default-1", 1
            wait_for(lambda: _held(server, *left), "its last requests", 60)
        kill(server, "default-1")
        scaled.result()
        assert [each.result() for each in asked] == [text] * 8
    assert list(states(server)) == ["default-0"]


def _held(server: Server, slot: str, most: int) -> bool:
    """Whether a worker is gone, or has so few requests left."""
    worker = states(server).get(slot)
    return worker is None or worker["running"] + worker["waiting"] <= most


def test_the_worker_that_stays_is_killed_while_the_other_drains(server: Server) -> None:
    text = ask(server)
    scale(server, 2)
    with ThreadPoolExecutor(9) as threads:
        asked = begin(server, threads, 8)
        scaled = threads.submit(scale, server, 1)
        wait_for(lambda: states(server)["default-1"]["state"] == "draining", "to drain")
        kill(server, "default-0")
        assert [each.result() for each in asked] == [text] * 8
        scaled.result()


def test_coordinator_and_worker_are_killed_while_it_drains(server: Server) -> None:
    text = ask(server)
    scale(server, 2)
    with ThreadPoolExecutor(9) as threads:
        asked = begin(server, threads, 8)
        scaled = threads.submit(scale, server, 1)
        wait_for(lambda: states(server)["default-1"]["state"] == "draining", "to drain")
        server.children("headrace.coordinator.main")[0].kill()
        kill(server, "default-1")
        assert [each.result() for each in asked] == [text] * 8
        scaled.result()
    wait_for(lambda: list(states(server)) == ["default-0"], "one worker")
