"""Requests that an operator ends over real processes, whichever frontend has them."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

LONG = {"prompt": [5, 6, 7], "max_tokens": 1500, "ignore_eos": True}
TOLD = "operator"


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch("--workers", "2", "--frontends", "3", "--enable-admin", step_s=0.01)


def abort(server: Server, ids: Any, query: str = "", status: int = 200) -> Any:
    with server.new_client() as client:
        answer = client.post(f"/abort_requests{query}", json={"request_ids": ids})
    assert answer.status_code == status, answer.text
    return answer.json()


def ask(server: Server, name: str) -> httpx.Response:
    url, headers = f"{server.url}/v1/completions", {"X-Request-Id": name}
    return httpx.post(url, json=LONG, headers=headers, timeout=60)


def wait_running(server: Server, count: int) -> None:
    def running() -> float:
        found: float = server.get("/load?verbose").json()["groups"][0]["running"]
        return found

    wait_for(lambda: running() == count, f"{count} running")


def test_by_the_ids_that_clients_gave(server: Server) -> None:
    with ThreadPoolExecutor(6) as threads:
        asked = {name: threads.submit(ask, server, name) for name in "abcdef"}
        wait_running(server, 6)
        report = abort(server, ["a", "c", "nobody", "e"])
        assert report == {"aborted": ["a", "c", "e"], "unknown": ["nobody"], "count": 3}
        for name in "ace":
            answer = asked[name].result(timeout=10)
            assert answer.status_code == 503
            assert TOLD in answer.json()["error"]["message"]
        wait_running(server, 3)
        assert not any(asked[name].done() for name in "bdf")
        assert abort(server, ["a"]) == {"aborted": [], "unknown": ["a"], "count": 0}
        assert abort(server, "all")["aborted"] == ["b", "d", "f"]
        assert all(asked[name].result().status_code == 503 for name in "bdf")
    assert abort(server, "all")["count"] == 0


def test_by_the_id_of_an_answer(server: Server) -> None:
    url, lines = f"{server.url}/v1/chat/completions", []
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1500, "stream": True}
    with httpx.stream("POST", url, json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if len(lines) == 3:
                name = lines[0].partition('"id":"')[2].partition('"')[0]
                assert abort(server, [name])["aborted"] == [name]
    said = [line for line in lines if line]
    assert said[-1] == "data: [DONE]"
    assert sum('"error"' in line and TOLD in line for line in said) == 1


def test_a_response_in_the_background(server: Server) -> None:
    body = {"input": "Hi", "max_output_tokens": 1500, "background": True}
    with server.new_client() as client:
        begun = client.post("/v1/responses", json=body).json()
    wait_running(server, 1)
    name = begun["id"]
    assert abort(server, [name]) == {"aborted": [name], "unknown": [], "count": 1}

    def stored() -> dict[str, Any]:
        found: dict[str, Any] = server.get(f"/v1/responses/{name}").json()
        return found

    wait_for(lambda: stored()["status"] != "in_progress", "its end")
    assert stored()["status"] == "failed"
    assert TOLD in stored()["error"]["message"]
    wait_running(server, 0)


def test_a_response_that_is_streamed(server: Server) -> None:
    body = {"input": "Hi", "max_output_tokens": 1500, "stream": True}
    url, kinds = f"{server.url}/v1/responses", []
    with httpx.stream("POST", url, json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                kinds.append(event["type"])
                if len(kinds) == 5:
                    name = next(iter(abort(server, "all")["aborted"]))
                    assert name.startswith("resp_")
    assert kinds[-1] == "response.failed"
    assert TOLD in event["response"]["error"]["message"]


def test_what_one_worker_has(server: Server) -> None:
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(ask, server, str(number)) for number in range(4)]
        wait_running(server, 4)
        report = abort(server, "all", "?worker=default-0&verbose")
        assert report["count"] == report["workers"][0]["value"] == 2
        wait_running(server, 2)
        abort(server, "all")
        assert {each.result().status_code for each in asked} == {503}


@pytest.mark.parametrize(
    ("ids", "query", "status", "said"),
    [
        ("some", "", 400, "request_ids"),
        ([1], "", 400, "request_ids"),
        ([""], "", 400, "request_ids"),
        (["a"], "?worker=default-0", 400, "worker"),
        (["a"], "?model=nobody", 404, "nobody"),
    ],
)
def test_bad_input_is_named(server: Server, ids: Any, query: str, status: int, said: str) -> None:
    assert said in abort(server, ids, query, status)["error"]["message"]
