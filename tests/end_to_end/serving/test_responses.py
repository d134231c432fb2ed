"""Responses over two frontends and one store: what one begins, the other reads, cancels and goes on
with; and what a killed frontend has begun is completed."""

import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import OpenAI

from tests.end_to_end.servers import Launch, Server, wait_for

STORY = {"input": "Tell me a story.", "ignore_eos": True, "seed": 7, "temperature": 1}


class Connection:
    """A connection that is kept, and so is one frontend's. pid: that frontend."""

    def __init__(self, server: Server) -> None:
        address = httpx.URL(server.url)
        self._http = http.client.HTTPConnection(address.host, address.port or 80, timeout=60)
        self._http.request("GET", "/health")
        self._http.getresponse().read()
        port = self._http.sock.getsockname()[1]
        self.pid = next(
            process.pid
            for process in server.children("headrace.frontend.main")
            for each in process.net_connections("tcp")
            if each.raddr and each.raddr.port == port
        )

    def ask(self, method: str, path: str, **body: Any) -> Any:
        data = json.dumps(body) if body else None
        self._http.request(
            method, f"/v1/responses{path}", data, {"Content-Type": "application/json"}
        )
        answer = self._http.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, text
        return text if "stream" in path else json.loads(text)

    def until(self, response_id: str, *statuses: str) -> dict[str, Any]:
        body: dict[str, Any] = {}

        def reached() -> bool:
            body.update(self.ask("GET", f"/{response_id}"))
            return body["status"] in statuses

        wait_for(reached, f"the response is {statuses}", timeout_s=30)
        return body

    def events(self, response_id: str, query: str = "") -> list[dict[str, Any]]:
        text = self.ask("GET", f"/{response_id}?stream=true{query}")
        lines = [line for line in text.splitlines() if line.startswith("data: ")]
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    def close(self) -> None:
        self._http.close()


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch("--frontends", "2", "--workers", "1", "--tool-server", "demo", step_s=0.005)


@pytest.fixture
def both(server: Server) -> Iterator[tuple[Connection, Connection]]:
    """A connection to each frontend."""
    found: dict[int, Connection] = {}
    rest: list[Connection] = []

    def have_both() -> bool:
        connection = Connection(server)
        rest.append(connection)
        found.setdefault(connection.pid, connection)
        return len(found) == 2

    wait_for(have_both, "both frontends have answered")
    first, second = found.values()
    yield first, second
    for connection in rest:
        connection.close()


def text_of(body: dict[str, Any]) -> str:
    return str(body["output"][0]["content"][0]["text"])


def test_created_on_one_read_cancelled_and_gone_on_with_on_the_other(
    server: Server, both: tuple[Connection, Connection]
) -> None:
    one, other = both
    begun = one.ask("POST", "", **STORY, background=True, max_output_tokens=50)
    done = other.until(begun["id"], "incomplete")
    assert done == one.ask("GET", f"/{begun['id']}")
    events = other.events(begun["id"])
    assert events == one.events(begun["id"])
    assert other.events(begun["id"], "&starting_after=20") == events[21:]
    assert "".join(event.get("delta", "") for event in events) == text_of(done)

    next_one = other.ask(
        "POST", "", input="And?", previous_response_id=begun["id"], max_output_tokens=9
    )
    assert next_one["usage"]["input_tokens"] > done["usage"]["total_tokens"]

    endless = one.ask("POST", "", **STORY, background=True, max_output_tokens=1500)
    other.until(endless["id"], "in_progress")
    assert other.ask("POST", f"/{endless['id']}/cancel")["status"] == "cancelled"
    wait_for(lambda: server.metric("headrace:num_requests_running") == 0, "its slot is free")
    assert one.ask("GET", f"/{endless['id']}")["status"] == "cancelled"


def test_a_background_response_survives_the_death_of_its_frontend(
    server: Server, both: tuple[Connection, Connection]
) -> None:
    one, other = both
    fields = {**STORY, "background": True, "max_output_tokens": 250}
    expected = text_of(other.until(other.ask("POST", "", **fields)["id"], "incomplete"))
    begun = one.ask("POST", "", **fields)
    other.until(begun["id"], "in_progress")
    seen: list[dict[str, Any]] = []
    with (
        server.new_client() as client,
        client.stream("GET", f"/v1/responses/{begun['id']}?stream=true") as stream,
    ):
        for line in stream.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
            if len(seen) == 20:
                break
    os.kill(one.pid, signal.SIGKILL)
    done = other.until(begun["id"], "incomplete", "failed")
    assert text_of(done) == expected
    events = other.events(begun["id"])
    assert events[:20] == seen
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert "".join(event.get("delta", "") for event in events) == expected
    assert done["usage"]["output_tokens"] == 250
    wait_for(lambda: len(server.children("headrace.frontend.main")) == 2, "the frontend is back")


def test_the_openai_client(server: Server) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        model = client.models.list().data[0].id
        with client.responses.stream(model=model, input="Hello", max_output_tokens=50) as stream:
            text = "".join(
                event.delta for event in stream if event.type == "response.output_text.delta"
            )
        background = client.responses.create(model=model, input="Hello", background=True)
        client.responses.cancel(background.id)
        client.responses.delete(background.id)
        assert text


def test_what_is_stored_outlives_the_server(launch: Launch, tmp_path: Path) -> None:
    flags = ("--frontends", "1", "--workers", "1", "--response-store-url")
    first = launch(*flags, f"sqlite:///{tmp_path}/store.db", step_s=0.005)
    fields = {**STORY, "background": True, "max_output_tokens": 500}
    begun = first.client.post("/v1/responses", json=fields).json()
    path = f"/v1/responses/{begun['id']}"
    wait_for(
        lambda: first.client.get(path).json()["status"] == "in_progress", "the response has begun"
    )
    pids = [process.pid for process in first.children()]
    assert first.stop() == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    second = launch(*flags, f"sqlite:///{tmp_path}/store.db", step_s=0.005)
    wait_for(
        lambda: second.client.get(path).json()["status"] == "incomplete", "it has been completed"
    )
    assert second.client.get(path).json()["usage"]["output_tokens"] == 500
