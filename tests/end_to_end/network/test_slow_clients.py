"""Clients that send or read slowly, or do nothing: their connections end, and what they cost."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import httpx
import psutil
import pytest

from tests.end_to_end.network.raw import Reply, connect, head, post, read
from tests.end_to_end.servers import Launch, Server, wait_for

TIMEOUT_S, RATE = 1.0, 1000
PROMPT = {"model": "fake", "prompt": "hello", "max_tokens": 1}
LONG = {"model": "fake", "prompt": "hello", "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    flags = ["--workers", "1", "--frontends", "2", "--served-model-name", "fake"]
    flags += ["--header-timeout", str(TIMEOUT_S), "--body-timeout", str(TIMEOUT_S)]
    flags += ["--write-timeout", str(TIMEOUT_S), "--min-body-rate", str(RATE)]
    return launch(*flags, "--keep-alive-timeout", "3", "--max-num-seqs", "256")


def trickle(connection: socket.socket, data: bytes, pause_s: float) -> Reply:
    """Send byte by byte until the server closes or answers; then read all."""
    begun_at = time.monotonic()
    connection.settimeout(pause_s)
    answer = b""
    with contextlib.suppress(ConnectionError):
        for byte in data:
            connection.sendall(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65536)
                break
    rest = read(connection, 8)
    return Reply(answer + rest.data, rest.is_closed, time.monotonic() - begun_at)


def check_late(reply: Reply) -> None:
    assert reply.status == 408, reply
    assert reply.is_closed
    assert reply.body["error"]["code"] == 408


@pytest.mark.parametrize("is_first", [True, False])
def test_slow_headers_end(is_first: bool, server: Server) -> None:
    with connect(server) as connection:
        if not is_first:
            connection.sendall(post("/v1/completions", PROMPT))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        begun_at = time.monotonic()
        check_late(trickle(connection, head() + b" " * 100, 0.05))
        assert TIMEOUT_S * 0.9 < time.monotonic() - begun_at < TIMEOUT_S + 1


def test_headers_that_stop_end(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(head()[:-2])
        check_late(read(connection, TIMEOUT_S + 2))


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/tokenize"])
def test_slow_bodies_end(path: str, framing: str, server: Server) -> None:
    data = b" " * 1000 if "Length" in framing else b"1\r\n \r\n" * 1000
    begun_at = time.monotonic()
    with connect(server) as connection:
        connection.sendall(head(path, framing))
        check_late(trickle(connection, data, 0.05))
    assert time.monotonic() - begun_at < TIMEOUT_S + 7


def test_slow_body_of_a_message_ends_in_its_shape(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(head("/v1/messages", "Content-Length: 1000") + b"{")
        reply = read(connection, TIMEOUT_S + 7)
    assert reply.status == 408
    assert reply.body["type"] == "error"


def test_slow_upload_ends(server: Server) -> None:
    lines = ["POST /v1/files HTTP/1.1", "Host: a", "Content-Length: 100000"]
    lines += ["Content-Type: multipart/form-data; boundary=a"]
    with connect(server) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n--a\r\n").encode())
        check_late(read(connection, TIMEOUT_S + 7))


def test_body_at_the_least_rate_is_taken(server: Server) -> None:
    data = json.dumps({**PROMPT, "prompt": "x" * 4000, "truncate_prompt_tokens": 10}).encode()
    with connect(server) as connection:
        connection.sendall(head("/v1/completions", f"Content-Length: {len(data)}"))
        for start in range(0, len(data), 200):
            time.sleep(0.1)
            connection.sendall(data[start : start + 200])
        assert read(connection, 2).status == 200


def test_idle_connections_end(server: Server) -> None:
    """One that has sent nothing, and one between two requests."""
    with connect(server) as silent, connect(server) as used:
        used.sendall(post("/v1/completions", PROMPT))
        assert used.recv(65536).startswith(b"HTTP/1.1 200")
        reply = read(silent, 30)
        assert (reply.data, reply.is_closed) == (b"", True)
        assert read(used, 30).is_closed


def test_idle_connections_of_http2_end(server: Server) -> None:
    with connect(server) as connection:
        client = h2.connection.H2Connection()
        client.initiate_connection()
        connection.sendall(client.data_to_send())
        begun_at = time.monotonic()
        connection.settimeout(6)
        with contextlib.suppress(ConnectionError):
            while connection.recv(65536):
                client.ping(b"12345678")  # pings do not keep it open
                connection.sendall(client.data_to_send())
                time.sleep(0.2)
        assert 2 < time.monotonic() - begun_at < 6


# Answers that nobody reads


@pytest.fixture(scope="module")
def silent_readers(server: Server) -> Iterator[list[socket.socket]]:
    """Clients that ask for much and read nothing."""
    opened = []
    for _ in range(60):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = httpx.URL(server.url)
        connection.connect((url.host, url.port))
        opened.append(connection)
    yield opened
    for connection in opened:
        connection.close()


def resident(server: Server) -> int:
    frontends = server.children("headrace.frontend.main")
    return sum(psutil.Process(each.pid).memory_info().rss for each in frontends)


def test_unread_streams_end_and_cost_little(
    server: Server, silent_readers: list[socket.socket]
) -> None:
    before = resident(server)
    for connection in silent_readers:
        connection.sendall(post("/v1/completions", {**LONG, "max_tokens": 2000, "logprobs": 5}))
    wait_for(lambda: server.metric("headrace:num_requests_running") > 0, "they run")
    most = 0
    ends_at = time.monotonic() + 12

    def are_over() -> bool:
        nonlocal most
        most = max(most, resident(server))
        return server.metric("headrace:num_requests_running") == 0

    wait_for(are_over, "none runs", timeout_s=ends_at - time.monotonic())
    for connection in silent_readers:
        connection.settimeout(10)
        with contextlib.suppress(ConnectionError):
            while connection.recv(65536):
                pass
    per_client = (most - before) / len(silent_readers)
    assert per_client < 2_000_000, per_client


def test_unread_stream_is_aborted(launch: Launch) -> None:
    """Long before its last token."""
    flags = ["--workers", "1", "--frontends", "1", "--write-timeout", "1"]
    slow = launch(*flags, "--served-model-name", "fake", step_s=0.01)
    with connect(slow) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = {**LONG, "max_tokens": 1900, "n": 16, "logprobs": 5}  # 19 seconds
        connection.sendall(post("/v1/completions", body))
        wait_for(lambda: slow.metric("headrace:num_requests_running") > 0, "it runs")
        wait_for(
            lambda: slow.metric("headrace:num_requests_running") == 0, "it ended", timeout_s=12
        )
        assert slow.metric("headrace:request_success_total", finished_reason="length") == 0


def test_client_without_a_window_is_dropped(server: Server) -> None:
    """In HTTP/2 a stream may have no window, while its connection is read."""
    with connect(server) as connection:
        client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        client.initiate_connection()
        client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})
        body = json.dumps({**LONG, "max_tokens": 1500, "logprobs": 5}).encode()
        stream = client.get_next_available_stream_id()
        client.send_headers(
            stream,
            [
                (":method", "POST"),
                (":path", "/v1/completions"),
                (":scheme", "http"),
                (":authority", "a"),
                ("content-type", "application/json"),
            ],
        )
        client.send_data(stream, body, end_stream=True)
        connection.sendall(client.data_to_send())
        connection.settimeout(10)
        is_reset = False
        while not is_reset and (data := connection.recv(65536)):
            for event in client.receive_data(data):
                is_reset |= isinstance(event, h2.events.StreamReset)
            connection.sendall(client.data_to_send())
        assert is_reset
    wait_for(lambda: server.metric("headrace:num_requests_running") == 0, "nothing runs")


def test_slow_reader_gets_everything(server: Server) -> None:
    """One that reads, if slowly, is not cut off, and learns that it has everything: the connection
    ends."""
    with connect(server, receive_bytes=128 * 1024) as connection:
        body = {**LONG, "max_tokens": 1000, "n": 4, "logprobs": 5}
        connection.sendall(post("/v1/completions", body, "Connection: close"))
        received = b""
        connection.settimeout(30)
        begun_at = time.monotonic()
        while data := connection.recv(32 * 1024):
            received += data
            time.sleep(0.08)
    assert b"data: [DONE]" in received
    assert time.monotonic() - begun_at > 2 * TIMEOUT_S
