"""Structured outputs through real processes, some of which die."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for
from tests.stand_ins.sitecustomize import ALLOCATES, DIES, SLEEPS, python_path

NUMBERS = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 99},
    "minItems": 20,
    "maxItems": 20,
}


def body(server: Server, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": server.client.get("/v1/models").json()["data"][0]["id"],
        "messages": [{"role": "user", "content": "Numbers, please."}],
        "max_tokens": 400,
        "temperature": 0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        "structured_outputs": {"disable_any_whitespace": True},
    }


def stream(server: Server, kill_after: int | None = None) -> tuple[str, str | None]:
    """The text and why it ended. kill_after: events after which the oldest worker dies."""
    text, reason, events = "", None, 0
    request = {**body(server, NUMBERS), "stream": True}
    with server.client.stream("POST", "/v1/chat/completions", json=request) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            choice = json.loads(line.removeprefix("data: "))["choices"][0]
            text += choice["delta"].get("content") or ""
            reason = choice["finish_reason"] or reason
            events += 1
            if events == kill_after:
                server.children("headrace.workers.main")[0].send_signal(signal.SIGKILL)
    return text, reason


@pytest.fixture(scope="module")
def server(launch: Launch) -> Iterator[Server]:
    """Its checkers have a compiler that does as a grammar says (tests/stand_ins)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", python_path())
        yield launch("--workers", "1", "--frontends", "1", step_s=0.01)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        (SLEEPS, "response_format: it takes too long to compile."),
        (ALLOCATES, "response_format: it is too large."),
        (DIES, "response_format: it takes too much memory to compile."),
    ],
)
def test_a_compiler_that_takes_too_much_is_given_up_while_others_are_served(
    server: Server, word: str, reason: str
) -> None:
    before = [process.pid for process in server.children()]
    with ThreadPoolExecutor(1) as thread:
        hostile = thread.submit(
            server.client.post, "/v1/chat/completions", json=body(server, {"const": word})
        )
        answer = server.client.post("/v1/chat/completions", json=body(server, NUMBERS))
        assert answer.status_code == 200
        assert server.client.get("/health").status_code == 200
        rejected = hostile.result()
    assert rejected.status_code == 400
    assert rejected.json()["error"]["message"] == reason
    assert [process.pid for process in server.children()] == before


def test_a_text_keeps_to_its_schema_though_its_worker_dies(server: Server) -> None:
    plain, reason = stream(server)
    assert reason == "stop"
    jsonschema.validate(json.loads(plain), NUMBERS)
    worker = server.children("headrace.workers.main")[0].pid
    assert stream(server, kill_after=8) == (plain, reason)
    assert server.children("headrace.workers.main")[0].pid != worker


def test_checkers_die_with_their_frontend(server: Server) -> None:
    # A schema of its own: of another one the grammar may be stored, and no checker needed.
    schema = {**NUMBERS, "minItems": 3, "maxItems": 3}
    server.client.post("/v1/chat/completions", json=body(server, schema))
    frontends = server.children("headrace.frontend.main")
    frontend, checkers = next((each, found) for each in frontends if (found := each.children()))
    frontend.kill()
    wait_for(lambda: not any(each.is_running() for each in checkers), "the checkers' end")
