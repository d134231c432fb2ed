"""More than the pool can do: what is taken is answered, the rest hears so at once."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

LONG = {"prompt": "hello", "max_tokens": 60, "ignore_eos": True}


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    limits = ["--max-num-seqs", "2", "--max-queue-requests", "3", "--max-queue-tokens", "50"]
    return launch("--workers", "1", "--frontends", "2", *limits, step_s=0.02)


def ask(server: Server, **fields: object) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/completions", json={**LONG, **fields}, timeout=60)


def test_limits_are_exact_over_all_frontends(server: Server) -> None:
    with ThreadPoolExecutor(14) as threads:
        answers = list(threads.map(lambda _: ask(server), range(14)))
    assert Counter(answer.status_code for answer in answers) == {200: 2 + 3, 429: 14 - 5}
    for answer in answers:
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
            assert answer.json()["error"]["type"] == "Too Many Requests"
            assert answer.json()["error"]["code"] == 429
    assert ask(server).status_code == 200


def test_tokens_that_wait_are_limited_too(server: Server) -> None:
    """A prompt of any length is taken by a worker that has no other to run."""
    assert ask(server, prompt=[5] * 200, max_tokens=1).status_code == 200
    with ThreadPoolExecutor(6) as threads:
        prompts = [[5] * 40 for _ in range(6)]
        answers = list(threads.map(lambda prompt: ask(server, prompt=prompt), prompts))
    assert 429 in {answer.status_code for answer in answers}


def test_who_has_waited_too_long_is_told_and_never_run(server: Server) -> None:
    with ThreadPoolExecutor(3) as threads:
        long = [threads.submit(ask, server, max_tokens=100) for _ in range(2)]
        wait_for(lambda: server.metric("headrace:num_requests_running") == 2, "a full batch")
        before = server.metric("headrace:generation_tokens_total")
        late = httpx.post(
            f"{server.url}/v1/completions",
            json={**LONG, "prompt": "late"},
            headers={"X-Request-Timeout-Ms": "300"},
            timeout=60,
        )
        assert late.status_code == 504
        wait_for(lambda: server.metric("headrace:num_requests_waiting") == 0, "an empty queue")
        assert all(each.result().status_code == 200 for each in long)
    wait_for(lambda: server.metric("headrace:num_requests_running") == 0, "an idle pool")
    assert server.metric("headrace:generation_tokens_total") - before <= 2 * 100
