"""Clients that send a whole request and close at once: nothing runs on (fake engine)."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.end_to_end.network.raw import ask, connect, head, post
from tests.end_to_end.servers import Launch, Server, wait_for

# A text of so many tokens takes 90 seconds.
STEP_S, MANY = 0.05, 1800
AT_ONCE = 3
# Within this the slot is free; the gauge follows with a heartbeat.
FREE_S, HEARTBEAT_S = 1.0, 1.0

CHAT = [{"role": "user", "content": "hello"}]
LONG = {"model": "fake", "max_tokens": MANY, "ignore_eos": True}
QUESTION = {"type": "predicate", "instructions": "Is it?"}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {**LONG, "messages": CHAT}),
    "completion": ("/v1/completions", {**LONG, "prompt": "hello"}),
    "several choices": ("/v1/completions", {**LONG, "prompt": "hello", "n": 3}),
    "message": ("/v1/messages", {"model": "fake", "messages": CHAT, "max_tokens": MANY}),
    "response": (
        "/v1/responses",
        {"model": "fake", "input": "hello", "max_output_tokens": MANY, "store": False},
    ),
    "invocation": ("/invocations", {**LONG, "messages": CHAT}),
    "chat batch": ("/v1/chat/completions/batch", {**LONG, "messages": [CHAT, CHAT]}),
}
STREAMS = [name for name in REQUESTS if name != "chat batch"]
CASES = [(name, False) for name in REQUESTS] + [(name, True) for name in STREAMS]


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    flags = ["--workers", "1", "--frontends", "2", "--served-model-name", "fake"]
    return launch(*flags, step_s=STEP_S)


def send_and_close(server: Server, data: bytes, delay_s: float = 0.0) -> None:
    with connect(server) as connection:
        connection.sendall(data)
        time.sleep(delay_s)


def check_free(server: Server) -> None:
    """No more tokens are made soon after."""
    wait_for(
        lambda: server.metric("headrace:num_requests_running") == 0,
        "nothing runs",
        timeout_s=FREE_S + HEARTBEAT_S,
    )


@pytest.mark.parametrize(("name", "stream"), CASES)
def test_slot_is_free_at_once(name: str, stream: bool, server: Server) -> None:
    path, body = REQUESTS[name]
    data = post(path, {**body, "stream": True} if stream else body)
    with connect(server) as connection:
        connection.sendall(data)
        wait_for(lambda: server.metric("headrace:num_requests_running") > 0, "it runs")
    for delay_s in (0.0, 0.0, 0.0, 0.002, 0.005, 0.01, 0.02):
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(
                threads.map(lambda _: send_and_close(server, data, delay_s), range(AT_ONCE))  # noqa: B023
            )
    check_free(server)


def test_decisions_end(server: Server) -> None:
    path, body = "/v1/decisions", {"model": "fake", "input": "hello", "questions": [QUESTION]}
    assert ask(server, post(path, body), timeout_s=5).status == 200
    for _ in range(5):
        send_and_close(server, post(path, body))
    check_free(server)


def test_client_of_a_pipelined_request_ends_both(server: Server) -> None:
    path, body = REQUESTS["chat"]
    send_and_close(server, post(path, body) * 2, delay_s=0.2)
    check_free(server)


def test_client_that_resets_ends_its_request(server: Server) -> None:
    path, body = REQUESTS["chat"]
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(post(path, body))
        wait_for(lambda: server.metric("headrace:num_requests_running") == 1, "it runs")
    check_free(server)


def test_body_in_pieces_and_then_gone(server: Server) -> None:
    """The end of the body and of the connection come together."""
    path, body = REQUESTS["chat"]
    data = json.dumps(body).encode()
    for cut in (1, 10, len(data) - 1):
        with connect(server) as connection:
            connection.sendall(head(path, f"Content-Length: {len(data)}") + data[:cut])
            time.sleep(0.05)
            connection.sendall(data[cut:])
    check_free(server)


def test_who_leaves_by_http2_frees_its_slot(server: Server) -> None:
    path, body = REQUESTS["chat"]
    with (
        httpx.Client(base_url=server.url, http1=False, http2=True) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        client.post(path, json=body, timeout=0.3)
    check_free(server)
