"""Groups whose size follows their load, over real processes: nothing fails on the way."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

PROMPT = [5, 6, 7, 8]
PATIENCE_S = 60.0
QUICK = ["--scale-up-window", "1", "--scale-down-window", "3", "--enable-admin"]


@pytest.fixture(scope="module")
def busy(launch: Launch) -> Server:
    """One to three workers; each is to have two requests."""
    limits = ["--min-workers", "1", "--max-workers", "3", "--scale-target-requests", "2"]
    return launch("--workers", "1", "--frontends", "2", *limits, *QUICK, step_s=0.005)


@pytest.fixture(scope="module")
def empty(launch: Launch) -> Server:
    """None or one worker; it has none when it starts."""
    limits = ["--min-workers", "0", "--max-workers", "1"]
    return launch("--workers", "0", "--frontends", "2", "--enable-lora", *limits, *QUICK)


def ask(server: Server, tokens: int = 20) -> str:
    body = {"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["text"]
    return found


def group(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/health?verbose").json()["groups"][0]
    return found


def has(server: Server, size: int) -> None:
    def is_so() -> bool:
        shown = group(server)
        found: bool = shown["wanted"] == size and len(shown["workers"]) == shown["ready"] == size
        return found

    wait_for(is_so, f"{size} workers", PATIENCE_S)


@contextmanager
def users(server: Server, count: int, tokens: int = 100) -> Iterator[None]:
    """Users who ask all the time; each answer has to be the same."""
    text, over = ask(server, tokens), threading.Event()

    def user() -> None:
        while not over.is_set():
            assert ask(server, tokens) == text

    with ThreadPoolExecutor(count) as threads:
        started = [threads.submit(user) for _ in range(count)]
        try:
            yield
        finally:
            over.set()
        for each in started:
            each.result()


def test_from_one_to_three_and_back_without_a_failure(busy: Server) -> None:
    with users(busy, 8):
        has(busy, 3)
        assert "from 1 to " in busy.log
    with users(busy, 1):
        has(busy, 1)
    assert busy.metric("headrace:autoscale_desired_workers") == 1
    assert busy.metric("headrace:autoscale_max_workers") == 3
    assert busy.metric("headrace:autoscale_decisions_total", direction="up") >= 1
    assert busy.metric("headrace:autoscale_decisions_total", direction="down") >= 1


def test_a_coordinator_that_dies_keeps_the_size(busy: Server) -> None:
    with users(busy, 8):
        has(busy, 3)
        before = {each.pid for each in busy.children("headrace.workers.main")}
        (coordinator,) = busy.children("headrace.coordinator.main")
        coordinator.kill()
        wait_for(
            lambda: (
                [each.pid for each in busy.children("headrace.coordinator.main")]
                not in ([], [coordinator.pid])
            ),
            "another coordinator",
        )
        has(busy, 3)
        assert {each.pid for each in busy.children("headrace.workers.main")} == before
    has(busy, 1)


@pytest.mark.parametrize("size", [0, 4])
def test_an_order_beyond_the_limits_is_refused_by_name(busy: Server, size: int) -> None:
    answer = httpx.post(f"{busy.url}/scale_elastic_ep", json={"new_data_parallel_size": size})
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert "new_data_parallel_size" in message
    assert "at least 1 and at most 3" in message


def test_an_order_within_the_limits_is_obeyed_until_the_policy_goes_on(busy: Server) -> None:
    body = {"new_data_parallel_size": 2}
    answer = httpx.post(f"{busy.url}/scale_elastic_ep", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert len(busy.children("headrace.workers.main")) == 2
    has(busy, 1)


@pytest.mark.parametrize("path", ["/health", "/ping", "/metrics", "/load", "/v1/models"])
def test_questions_start_nobody_and_are_answered(empty: Server, path: str) -> None:
    has(empty, 0)
    assert empty.get(path).status_code == 200
    assert httpx.post(f"{empty.url}/tokenize", json={"prompt": "text"}).status_code == 200
    shown = group(empty)
    assert (shown["status"], shown["wanted"], shown["min"], shown["max"]) == ("ready", 0, 0, 1)
    assert empty.children("headrace.workers.main") == []


def test_requests_start_the_first_worker_and_are_all_answered(empty: Server) -> None:
    """Connections of their own: both frontends have some of them."""
    for _ in range(2):
        has(empty, 0)
        with ThreadPoolExecutor(8) as threads:
            texts = list(threads.map(lambda _: ask(empty), range(8)))
        assert len(set(texts)) == 1
        assert len(empty.children("headrace.workers.main")) == 1
    has(empty, 0)
    assert "no request for 3 s" in empty.log
    assert empty.metric("headrace:autoscale_decisions_total", reason="first") == 2


def test_an_adapter_is_loaded_by_a_worker_that_is_started_for_it(
    empty: Server, tmp_path: Path
) -> None:
    has(empty, 0)
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    body = {"lora_name": "a", "lora_path": str(tmp_path)}
    with empty.new_client() as client:
        answer = client.post("/v1/load_lora_adapter", json=body)
        assert answer.status_code == 200, answer.text
        has(empty, 0)  # and the next one has it from its start
        asked = {"model": "a", "prompt": PROMPT, "max_tokens": 5}
        assert client.post("/v1/completions", json=asked).status_code == 200
        has(empty, 0)
        answer = client.post("/v1/unload_lora_adapter", json={"lora_name": "a"})
        assert answer.status_code == 200, answer.text
    assert group(empty)["wanted"] == 0


def test_a_request_is_answered_though_the_coordinator_dies_while_it_is_held(empty: Server) -> None:
    has(empty, 0)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, empty)
        empty.children("headrace.coordinator.main")[0].kill()
        assert asked.result()
    has(empty, 0)


def test_workers_that_cannot_be_started_are_given_up_and_nothing_fails(
    launch: Launch, fake_model: Path
) -> None:
    """The model is gone when the next worker wants to read it."""
    limits = ["--min-workers", "1", "--max-workers", "3", "--scale-target-requests", "2"]
    server = launch("--workers", "1", *limits, *QUICK, step_s=0.005)
    config = fake_model / "config.json"
    text = config.read_text()
    config.unlink()
    try:
        with users(server, 8):
            wait_for(lambda: "reverts to 1 workers" in server.log, "it gives up", PATIENCE_S)
            wait_for(lambda: "tried again in" in server.log, "it says so", PATIENCE_S)
            assert group(server)["wanted"] == 1
    finally:
        config.write_text(text)
    assert server.metric("headrace:autoscale_failures_total") >= 1
    has(server, 1)


def test_workers_that_sleep_are_let_go_and_the_last_is_woken(launch: Launch) -> None:
    limits = ["--min-workers", "1", "--max-workers", "2", "--scale-target-requests", "2"]
    idle = ["--sleep-idle-seconds", "0.5"]
    server = launch("--workers", "2", *limits, *QUICK, *idle, step_s=0.005)
    wait_for(lambda: len(group(server)["workers"]) == 1, "one is let go", PATIENCE_S)
    wait_for(lambda: group(server)["asleep"] == 1, "the other sleeps", PATIENCE_S)
    with users(server, 8):
        has(server, 2)
