"""What clients see of two frontends and two workers (fake engine)."""

import asyncio
import collections
import json
import socket
from pathlib import Path

import httpx
import psutil
import pytest
from openai import AsyncOpenAI, OpenAI
from prometheus_client.multiprocess import MultiProcessCollector

from tests.end_to_end.servers import Launch, Server, wait_for


@pytest.fixture
def server(fake_pool: Server) -> Server:
    return fake_pool


def body(**fields: object) -> dict[str, object]:
    return {"model": "fake", "prompt": "hello", "max_tokens": 5, "ignore_eos": True, **fields}


def work_by_process(server: Server, metric: str) -> dict[int, float]:
    """A counter's total in each process, read from the files that the processes share."""
    totals: dict[int, float] = {}
    for file in (server.run_dir / "metrics").glob("counter_*.db"):
        merged = MultiProcessCollector.merge([str(file)])  # type: ignore[no-untyped-call]
        for family in merged:
            total = sum(sample.value for sample in family.samples if sample.name == metric)
            if family.name in metric and total:
                totals[int(file.stem.rpartition("_")[2])] = total
    return totals


async def test_concurrent_streams_equal_the_unstreamed_and_all_processes_work(
    server: Server,
) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        async def streamed(number: int) -> tuple[str, int]:
            stream = await client.chat.completions.create(
                model="fake",
                messages=[{"role": "user", "content": f"tell me {number}"}],
                max_tokens=30,
                stream=True,
                stream_options={"include_usage": True},
                temperature=0,
            )
            chunks = [chunk async for chunk in stream]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
            assert chunks[-1].usage is not None
            return text, chunks[-1].usage.completion_tokens

        async def whole(number: int) -> tuple[str, int]:
            answer = await client.chat.completions.create(
                model="fake",
                messages=[{"role": "user", "content": f"tell me {number}"}],
                max_tokens=30,
                temperature=0,
            )
            assert answer.usage is not None
            return answer.choices[0].message.content or "", answer.usage.completion_tokens

        streams = await asyncio.gather(*(streamed(number) for number in range(32)))
        wholes = [await whole(number) for number in range(32)]
    assert streams == wholes
    assert len({text for text, _ in streams}) > 10
    requests = work_by_process(server, "http_requests_total")
    steps = {engine: server.metric("headrace:iteration_tokens_total_count", engine=engine)
             for engine in ("0", "1")}  # fmt: skip
    frontends = {process.pid for process in server.children("headrace.frontend.main")}
    assert frontends <= requests.keys()
    assert all(steps.values())


def test_any_frontend_gives_the_pools_totals(server: Server) -> None:
    seen = set()
    server.client.post("/v1/completions", json=body(max_tokens=7))
    for _ in range(8):
        text = server.get("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("headrace:")]
        stable = [line for line in lines if "generation_tokens" in line or "success" in line]
        assert stable
        seen.add("\n".join(sorted(stable)))
    assert len(seen) == 1


def test_every_frontend_gives_the_same_list_of_models(server: Server) -> None:
    answers = {server.get("/v1/models").text for _ in range(8)}
    assert len(answers) == 1
    assert [model["id"] for model in json.loads(answers.pop())["data"]] == ["fake", "alias"]


def test_disconnect_frees_the_slot(launch: Launch) -> None:
    server = launch("--frontends", "1", "--workers", "1", step_s=0.02)

    def running() -> float:
        return server.metric("headrace:num_requests_running")

    for stream in (True, False):
        fields = body(max_tokens=2000, stream=stream, model=None)
        address = httpx.URL(server.url)
        with socket.create_connection((address.host, address.port or 80)) as connection:
            data = json.dumps(fields).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
            connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + data)
            try:
                wait_for(lambda: running() == 1, "the request runs")
            except AssertionError as error:
                connection.settimeout(1)
                error.add_note(f"answered: {connection.recv(2000)!r}")
                raise
            assert server.get("/load").json() == {"server_load": 1}
        wait_for(lambda: running() == 0, "its slot is free", timeout_s=2)
        assert server.get("/load").json() == {"server_load": 0}


def test_keep_alive_connections_spread_evenly_over_four_frontends(launch: Launch) -> None:
    server = launch("--frontends", "4", "--workers", "1")
    address = httpx.URL(server.url)
    pids = [process.pid for process in server.children("headrace.frontend.main")]
    assert len(pids) == 4
    connections = [socket.create_connection((address.host, address.port or 80)) for _ in range(64)]
    try:
        for connection in connections:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert all(b" 200 " in connection.recv(100) for connection in connections)
        counts = collections.Counter(
            pid
            for pid in pids
            for connection in psutil.Process(pid).net_connections("tcp")
            if connection.status == psutil.CONN_ESTABLISHED
        )
    finally:
        for connection in connections:
            connection.close()
    assert sum(counts.values()) == 64
    assert max(counts.values()) <= 2 * 64 / 4
    assert len(counts) == 4


def test_unix_socket(launch: Launch, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    server = launch("--uds", str(path), "--workers", "1")
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost"
    ) as client:
        assert client.get("/health").status_code == 200
        assert client.post("/v1/completions", json=body(model=None)).status_code == 200
    assert server.stop() == 0
    assert not path.exists()


def test_two_groups_from_a_file(fake_model: Path, cache_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    group = f'[[group]]\nmodel = "{fake_model}"\nengine = "fake"\nworkers = 1\n'
    file.write_text(
        f'{group}name = "one"\nserved_model_name = "first"\n'
        f'{group}name = "two"\nserved_model_name = ["second", "zweites"]\nmax_model_len = 64\n'
    )
    server = Server(["--config", str(file)], cache_dir)
    try:
        with OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            models = {model.id: model.model_extra for model in client.models.list()}
            assert set(models) == {"first", "second", "zweites"}
            assert {(extra or {})["max_model_len"] for extra in models.values()} == {64, 2048}
            for model in models:
                answer = client.completions.create(model=model, prompt="hello", max_tokens=3)
                assert answer.model == model
    finally:
        assert server.stop() == 0


def held_ports(server: Server) -> set[int]:
    """The clients' ports of all TCP connections that the frontends hold."""
    return {
        each.raddr.port
        for process in server.children("headrace.frontend.main")
        for each in process.net_connections("tcp")
        if each.raddr
    }


@pytest.mark.parametrize("kind", ["idle", "with a request", "after a stream", "half closed"])
def test_a_connection_that_its_client_closes_is_freed(fake_pool: Server, kind: str) -> None:
    """At once, and not when it has been idle for as long as it may."""
    url = httpx.URL(fake_pool.url)
    body = json.dumps({"model": "fake", "prompt": "a", "max_tokens": 5, "stream": True}).encode()
    asked = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    ) + body
    opened = []
    for _ in range(10):
        client = socket.create_connection((url.host, url.port), timeout=10)
        if kind == "with a request":
            client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        elif kind == "after a stream":
            client.sendall(asked)
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                data += client.recv(65536)
        opened.append(client)
    ports = {client.getsockname()[1] for client in opened}
    wait_for(lambda: ports <= held_ports(fake_pool), "they are taken")
    for client in opened:
        if kind == "half closed":
            client.shutdown(socket.SHUT_WR)
        else:
            client.close()
    wait_for(lambda: not ports & held_ports(fake_pool), "they are freed", 10)
    for client in opened:
        client.close()
