"""Clients that disconnect before their answer: their requests are aborted (fake engine)."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

# A text of so many tokens takes three minutes, a prompt of so many 12 seconds.
STEP_S, STEP_TOKENS = 0.1, 16
MANY = 1800
SEATS = 4
# An abort frees the slot in the next step; the gauges follow with a heartbeat.
FREE_TIMEOUT_S = 3.0

CHATS = [{"role": "user", "content": "hello"}]
TEXT = {"prompt": "hello", "max_tokens": MANY, "ignore_eos": True}
CHAT = {"messages": CHATS, "max_tokens": MANY, "ignore_eos": True}


class Case(NamedTuple):
    """path, body: of the request. texts: that are run for it at once."""

    path: str
    body: dict[str, Any]
    texts: int = 1


def text(**fields: Any) -> Case:
    return Case("/v1/completions", {**TEXT, **fields})


CASES = {
    "streamed": text(stream=True),
    "whole": text(),
    "several choices": text(n=4)._replace(texts=4),
    "several choices, streamed": text(n=4, stream=True)._replace(texts=4),
    "several prompts": text(prompt=["one", "two", "three"])._replace(texts=3),
    "several prompts, streamed": text(prompt=["one", "two"], stream=True)._replace(texts=2),
    "prefill": text(prompt=[5] * MANY, max_tokens=1),
    "prefill, streamed": text(prompt=[6] * MANY, max_tokens=1, stream=True),
    "chat": Case("/v1/chat/completions", CHAT),
    "chat, streamed": Case("/v1/chat/completions", {**CHAT, "stream": True}),
    "chat batch": Case("/v1/chat/completions/batch", {**CHAT, "messages": [CHATS, CHATS]}, 2),
    "messages": Case("/v1/messages", {"messages": CHATS, "max_tokens": MANY}),
    "messages, streamed": Case(
        "/v1/messages", {"messages": CHATS, "max_tokens": MANY, "stream": True}
    ),
    "response": Case(
        "/v1/responses", {"input": "hello", "max_output_tokens": MANY, "store": False}
    ),
    "response, streamed": Case(
        "/v1/responses",
        {"input": "hello", "max_output_tokens": MANY, "store": False, "stream": True},
    ),
}


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    limits = ["--max-num-seqs", str(SEATS), "--max-num-batched-tokens", str(STEP_TOKENS)]
    return launch("--workers", "1", "--frontends", "2", *limits, step_s=STEP_S)


@contextlib.contextmanager
def client(server: Server, case: Case) -> Iterator[socket.socket]:
    """One that has sent its request, and leaves with the block."""
    url = httpx.URL(server.url)
    body = json.dumps({"model": "fake", **case.body}).encode()
    head = f"POST {case.path} HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((url.host, url.port or 80), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        yield connection


def running(server: Server) -> float:
    return server.metric("headrace:num_requests_running")


def waiting(server: Server) -> float:
    return server.metric("headrace:num_requests_waiting")


def prompt_tokens(server: Server) -> float:
    """Of texts that have been run; it counts with the first output."""
    return server.metric("headrace:prompt_tokens_total")


def wait_until_free(server: Server) -> None:
    wait_for(
        lambda: running(server) == waiting(server) == 0, "nothing runs", timeout_s=FREE_TIMEOUT_S
    )


@pytest.mark.parametrize("name", CASES)
def test_who_leaves_frees_the_slots(name: str, server: Server) -> None:
    case = CASES[name]
    with client(server, case) as connection:
        wait_for(lambda: running(server) == case.texts, "its texts run")
        if case.body.get("stream") and "prefill" not in name:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    wait_until_free(server)


def test_who_leaves_a_beam_search_ends_it(server: Server) -> None:
    """Each of its steps is requests of their own, so that the gauges may miss it."""

    def steps() -> float:
        return server.metric("headrace:engine_step_seconds_count")

    def is_still() -> bool:
        before = steps()
        time.sleep(5 * STEP_S)
        return steps() == before

    before = steps()
    with client(server, text(n=2, use_beam_search=True)):
        wait_for(lambda: steps() >= before + 3, "it searches")
    wait_for(is_still, "it has ended", timeout_s=FREE_TIMEOUT_S)


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_the_queue_is_never_run(server: Server, stream: bool) -> None:
    with client(server, text(n=SEATS, stream=True)):
        wait_for(lambda: running(server) == SEATS, "a full batch")
        wait_for(lambda: prompt_tokens(server) > 0, "its prompts have been run")
        before = prompt_tokens(server)
        with client(server, text(prompt=["late", "later"], stream=stream)):
            wait_for(lambda: waiting(server) == 2, "they wait")
        wait_for(lambda: waiting(server) == 0, "nobody waits", timeout_s=FREE_TIMEOUT_S)
        assert running(server) == SEATS, "the others continue"
    wait_until_free(server)
    assert prompt_tokens(server) == before


def test_a_free_slot_goes_to_who_waits(server: Server) -> None:
    with client(server, text(n=SEATS, stream=True)) as first:
        wait_for(lambda: running(server) == SEATS, "a full batch")
        with client(server, text(stream=True)) as second:
            wait_for(lambda: waiting(server) == 1, "it waits")
            first.close()
            assert second.recv(1000).startswith(b"HTTP/1.1 200")
            wait_for(lambda: running(server) == 1, "it alone runs", timeout_s=FREE_TIMEOUT_S)
    wait_until_free(server)


@pytest.mark.parametrize(("background", "ends"), [(False, "cancelled"), (True, "incomplete")])
def test_stored_response_goes_on_only_in_the_background(
    server: Server, background: bool, ends: str
) -> None:
    tokens = 30
    fields = {"input": "hello", "max_output_tokens": tokens, "ignore_eos": True, "stream": True}
    with client(server, Case("/v1/responses", {**fields, "background": background})) as connection:
        received = b""
        while not (found := re.search(rb'"id":"(resp_[^"]+)"', received)):
            received += connection.recv(4000)
    path = f"/v1/responses/{found[1].decode()}"
    wait_for(lambda: server.get(path).json()["status"] != "in_progress", "it has ended")
    body = server.get(path).json()
    assert body["status"] == ends
    assert not background or body["usage"]["output_tokens"] == tokens


def test_who_has_left_is_counted_so(server: Server) -> None:
    def aborted() -> float:
        return server.metric("headrace:request_success_total", finished_reason="abort")

    before = aborted()
    with client(server, text(n=3)):
        wait_for(lambda: running(server) == 3, "its texts run")
    wait_for(lambda: aborted() == before + 3, "they count", timeout_s=FREE_TIMEOUT_S)
