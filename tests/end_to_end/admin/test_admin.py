"""Admin routes over real processes: whichever frontend takes the call, all workers execute it."""

from typing import Any

import httpx
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

PROMPT = list(range(3, 67))


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch("--workers", "2", "--frontends", "2", "--enable-admin", step_s=0.002)


def call(server: Server, method: str, path: str, status: int = 200, **options: Any) -> Any:
    """The answer's body; on a connection of its own, which any frontend may have."""
    with server.new_client() as client:
        answer = client.request(method, path, **options)
    assert answer.status_code == status, answer.text
    return answer.json()


def cached_tokens(server: Server) -> int:
    body = {"prompt": PROMPT, "max_tokens": 1}
    answer = httpx.post(f"{server.url}/v1/completions", json=body).json()
    found: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def looked_up(server: Server) -> list[float]:
    """Prompt tokens that each of the two workers has looked up in its cache."""
    name = "headrace:prefix_cache_queries_total"
    return [server.metric(name, engine=str(number)) for number in range(2)]


@pytest.mark.parametrize("query", ["", "?device=gpu&reset_running_requests=true"])
def test_prefixes_are_forgotten_by_all_workers(server: Server, query: str) -> None:
    before = looked_up(server)
    while any(now == then for now, then in zip(looked_up(server), before, strict=True)):
        cached_tokens(server)  # which worker has it is chance
    assert cached_tokens(server) > 0
    for _ in range(2):
        body = call(server, "POST", f"/reset_prefix_cache{query}")
        assert body == {"success": True}
        assert cached_tokens(server) == 0
        call(server, "POST", "/reset_prefix_cache")
    report = call(server, "POST", "/reset_prefix_cache?verbose&worker=default-1")
    assert [each["name"] for each in report["workers"]] == ["default-1.0"]


def test_bad_queries_are_named(server: Server) -> None:
    for path in ("/reset_prefix_cache?reset_running_requests=maybe",):
        message = call(server, "POST", path, 400)["error"]["message"]
        assert "reset_running_requests" in message
    assert "nobody" in str(call(server, "POST", "/reset_prefix_cache?model=nobody", 404))
    assert call(server, "POST", "/reset_prefix_cache?worker=nobody", 404)


def test_server_info_names_what_workers_run_on(server: Server) -> None:
    body = call(server, "GET", "/server_info?config_format=json&verbose")
    assert body["vllm_config"]["frontends"] == 2
    assert body["vllm_config"]["groups"][0]["engine"]["engine"] == "fake"
    values = [each["value"] for each in body["workers"]]
    assert len({each["pid"] for each in values}) == 2
    assert {each["engine"] for each in values} == {"fake"}
    assert "config_format" in str(call(server, "GET", "/server_info?config_format=xml", 400))


def test_methods_of_all_workers(server: Server) -> None:
    def rpc(method: str, query: str = "", **more: Any) -> list[Any]:
        body = {"method": method, **more}
        found: list[Any] = call(server, "POST", f"/collective_rpc{query}", json=body)["results"]
        return found

    assert rpc("ping") == ["pong", "pong"]
    assert rpc("ping", "?worker=default-1", timeout=5) == ["pong"]
    for memory in rpc("memory"):
        assert memory["resident_bytes"] > 2**20
    assert all(stats["steps"] >= 0 for stats in rpc("stats"))
    cached_tokens(server)
    assert rpc("reset_prefix_cache", args=[True]) == [None, None]
    assert cached_tokens(server) == 0
    message = call(server, "POST", "/collective_rpc", 400, json={"method": "sleep"})
    assert "ping" in message["error"]["message"]


def test_whoever_is_just_being_started_is_named_and_not_waited_for(server: Server) -> None:
    victim = server.children("headrace.workers.main")[0]
    victim.kill()
    wait_for(lambda: not victim.is_running(), "gone")
    with server.new_client() as client:
        answer = client.post("/reset_prefix_cache")
    if answer.status_code != 200:  # it has not come as far yet, or was not noticed to have ended
        message = answer.json()["error"]["message"]
        assert "cannot be reached yet" in message or "it ended" in message
    wait_for(lambda: ready(server) == 2, "started again")
    assert call(server, "POST", "/reset_prefix_cache") == {"success": True}


def ready(server: Server) -> int:
    found: int = server.get("/health?verbose").json()["groups"][0]["ready"]
    return found
