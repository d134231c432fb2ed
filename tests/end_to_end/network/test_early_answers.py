"""Answers that come before the request's body has: at once, whole, and the connection is closed."""

import json
import re
import socket
import time

import pytest

from tests.end_to_end.network.raw import ask, connect, head, post, read
from tests.end_to_end.servers import Server, wait_for

LIMIT = 1_000_000  # of the pool's bodies
TOO_LONG = f"Content-Length: {LIMIT + 1}"
EXPECT = "Expect: 100-continue"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/responses",
    "/v1/chat/completions/batch",
    "/v1/decisions",
    "/v1/batches",
    "/tokenize",
    "/invocations",
)
AT_ONCE_S = 1.0

REJECTED = {
    "no such path": (head("/nowhere", f"Content-Length: {LIMIT}"), 404),
    "no such method": (head("/v1/models", f"Content-Length: {LIMIT}"), 405),
    "compressed": (head("/tokenize", "Content-Length: 9", "Content-Encoding: gzip"), 415),
    "chunks on no path": (head("/nowhere", "Transfer-Encoding: chunked"), 404),
    "body of a GET": (head("/health", f"Content-Length: {LIMIT}", method="GET"), 200),
    "body of a HEAD": (head("/nowhere", f"Content-Length: {LIMIT}", method="HEAD"), 404),
    "too many headers": (head("/tokenize", "Content-Length: 9", *["X: 1"] * 300), 431),
}


@pytest.mark.parametrize("expects", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_too_long_a_body_is_rejected_unread(path: str, expects: bool, fake_pool: Server) -> None:
    begun_at = time.monotonic()
    with connect(fake_pool) as connection:
        connection.sendall(head(path, TOO_LONG, *([EXPECT] if expects else [])))
        reply = connection.recv(65536)
        assert time.monotonic() - begun_at < AT_ONCE_S
    assert reply.startswith(b"HTTP/1.1 413"), reply
    assert b"\r\nconnection: close\r\n" in reply.lower()


def test_too_long_an_upload_is_rejected_unread(fake_pool: Server) -> None:
    headers = [f"Content-Length: {2**40}", "Content-Type: multipart/form-data; boundary=a", EXPECT]
    lines = ["POST /v1/files HTTP/1.1", "Host: a", *headers]
    with connect(fake_pool) as connection:
        connection.settimeout(AT_ONCE_S)
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("expects", [True, False])
@pytest.mark.parametrize("name", REJECTED)
def test_rejections_do_not_wait_for_the_body(name: str, expects: bool, fake_pool: Server) -> None:
    data, status = REJECTED[name]
    if expects:
        data = data.replace(b"\r\n\r\n", f"\r\n{EXPECT}\r\n\r\n".encode())
    with connect(fake_pool) as connection:
        connection.settimeout(AT_ONCE_S)
        connection.sendall(data)
        reply = connection.recv(65536)
    assert reply.startswith(b"HTTP/1.1 %d" % status), reply
    assert b"100 Continue" not in reply
    assert b"\r\nconnection: close\r\n" in reply.lower()


def test_body_is_asked_for_when_it_is_wanted(fake_pool: Server) -> None:
    whole = post("/v1/chat/completions", CHAT, EXPECT)
    headers, _, body = whole.partition(b"\r\n\r\n")
    with connect(fake_pool) as connection:
        connection.sendall(headers + b"\r\n\r\n")
        assert connection.recv(65536) == b"HTTP/1.1 100 \r\n\r\n"
        connection.sendall(body)
        assert whole_answer(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(post("/v1/chat/completions", CHAT))  # the connection goes on
        assert whole_answer(connection).startswith(b"HTTP/1.1 200")


def whole_answer(connection: socket.socket) -> bytes:
    """Return an answer's head and its body, which may come apart."""
    data = more(connection)
    while b"\r\n\r\n" not in data:
        data += more(connection)
    length = re.search(rb"content-length: (\d+)", data.lower())
    assert length is not None
    while len(data.partition(b"\r\n\r\n")[2]) < int(length[1]):
        data += more(connection)
    return data


def more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "the connection has ended"
    return data


def test_body_that_is_sent_without_being_asked_for_is_taken(fake_pool: Server) -> None:
    reply = ask(fake_pool, post("/v1/chat/completions", CHAT, EXPECT), timeout_s=1)
    assert reply.data.startswith(b"HTTP/1.1 200")
    assert b"100 Continue" not in reply.data
    assert not reply.is_closed


def test_answer_is_not_lost_on_a_client_that_sends_all_first(fake_pool: Server) -> None:
    """Closing a socket with unread bytes would reset it, and the client would not see why."""
    size = 8 * LIMIT
    with connect(fake_pool) as connection:
        connection.sendall(head("/v1/completions", f"Content-Length: {size}"))
        for _ in range(size // LIMIT):
            connection.sendall(b" " * LIMIT)
            time.sleep(0.05)
        reply = read(connection)
    assert reply.status == 413
    assert reply.is_closed
    assert reply.body["error"]["code"] == 413


def test_client_that_never_stops_sending_is_not_read_for_ever(fake_pool: Server) -> None:
    """Of an answered request, what comes is dropped for five seconds."""
    begun_at = time.monotonic()

    def send_on(connection: socket.socket) -> None:
        while time.monotonic() < begun_at + 15:
            connection.sendall(b" " * 65536)
            time.sleep(0.01)

    with connect(fake_pool) as connection:
        connection.sendall(head("/v1/completions", f"Content-Length: {2**40}"))
        with pytest.raises(ConnectionError):
            send_on(connection)
    assert 3 < time.monotonic() - begun_at < 8


def test_small_body_of_a_rejected_request_keeps_the_connection(fake_pool: Server) -> None:
    reply = ask(fake_pool, post("/nowhere", CHAT) + post("/nowhere", CHAT), timeout_s=1)
    assert reply.data.count(b"HTTP/1.1 404") == 2
    assert not reply.is_closed


def test_pipelined_requests_are_answered_in_order(fake_pool: Server) -> None:
    requests = [post("/v1/chat/completions", {**CHAT, "max_tokens": n}) for n in (3, 1, 2)]
    reply = ask(fake_pool, b"".join(requests), timeout_s=2)
    parts = reply.data.split(b"HTTP/1.1 ")[1:]
    used = [json.loads(each.partition(b"\r\n\r\n")[2])["usage"] for each in parts]
    assert [each["completion_tokens"] for each in used] == [3, 1, 2]
    assert not reply.is_closed


def test_pipelining_holds_few_bytes(fake_pool: Server) -> None:
    """While an answer is made, no more is read than a few requests."""
    body = {**CHAT, "max_tokens": 500, "ignore_eos": True}
    with connect(fake_pool) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        connection.sendall(post("/v1/chat/completions", body))
        connection.setblocking(False)
        small, sent = post("/v1/chat/completions", CHAT), 0
        ends_at = time.monotonic() + 1
        while time.monotonic() < ends_at:
            try:
                sent += connection.send(small * 100)
            except BlockingIOError:
                time.sleep(0.01)
    assert fake_pool.get("/health").status_code == 200
    wait_for(lambda: fake_pool.metric("headrace:num_requests_running") == 0, "nothing runs")
