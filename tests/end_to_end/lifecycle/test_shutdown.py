"""SIGTERM while requests run that are not finished in time (fake engine)."""

import json
import threading
from typing import Any

import httpx
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

MANY = 1800  # tokens, of which one comes each STEP_S
STEP_S = 0.1
# Of --shutdown-timeout 0, on a machine with other things to do.
END_TIMEOUT_S = 15.0

MESSAGES = [{"role": "user", "content": "hello"}]
TEXT = {"prompt": "hello", "max_tokens": MANY, "ignore_eos": True}
CHAT = {"messages": MESSAGES, "max_tokens": MANY, "ignore_eos": True}
RESPONSE = {"input": "hello", "max_output_tokens": MANY, "ignore_eos": True}

Body = dict[str, Any]

STREAMS: dict[str, tuple[str, Body]] = {
    "completion": ("/v1/completions", TEXT),
    "several texts": ("/v1/completions", {**TEXT, "n": 2}),
    "chat": ("/v1/chat/completions", CHAT),
    "message": ("/v1/messages", {"messages": MESSAGES, "max_tokens": MANY}),
    "response": ("/v1/responses", RESPONSE),
}
PREFILL = {"prompt": [5] * MANY, "max_tokens": 1, "stream": True}
WHOLE: dict[str, tuple[str, Body]] = {
    "completion": ("/v1/completions", TEXT),
    "several texts": ("/v1/completions", {**TEXT, "n": 2}),
    "beams": ("/v1/completions", {**TEXT, "n": 2, "use_beam_search": True}),
    "chat": ("/v1/chat/completions", CHAT),
    "message": ("/v1/messages", {"messages": MESSAGES, "max_tokens": MANY}),
    "response": ("/v1/responses", RESPONSE),
    "prefill, streamed": ("/v1/completions", PREFILL),
}
# Of all these, without the beams: of them more or fewer run from one moment to the next.
TEXTS = 6 + 7


class Asking:
    """Requests in threads, and what they are answered: (status, text), or how they failed."""

    def __init__(self, server: Server, requests: dict[str, tuple[str, Body]]) -> None:
        self.answers: dict[str, tuple[int, str] | Exception] = {}
        self.begun: set[str] = set()
        self._threads = [
            threading.Thread(target=self._run, args=(server, name, path, {"model": "fake", **body}))
            for name, (path, body) in requests.items()
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, server: Server, name: str, path: str, body: Body) -> None:
        try:
            with server.new_client() as client, client.stream("POST", path, json=body) as answer:
                pieces = []
                for piece in answer.iter_text():
                    self.begun.add(name)
                    pieces.append(piece)
                self.answers[name] = answer.status_code, "".join(pieces)
        except httpx.HTTPError as error:
            self.answers[name] = error

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


def in_workers(server: Server) -> float:
    gauges = ("headrace:num_requests_running", "headrace:num_requests_waiting")
    return sum(server.metric(name) for name in gauges)


@pytest.fixture(scope="module")
def asked(launch: Launch) -> tuple[Asking, Asking]:
    """Streams that had begun, and what had not, when their pool was to end at once."""
    small = ["--max-num-batched-tokens", "32", "--served-model-name", "fake"]
    flags = ["--workers", "1", "--frontends", "2", "--shutdown-timeout", "0", *small]
    server = launch(*flags, step_s=STEP_S)
    family = server.children()
    streams = {name: (path, {**body, "stream": True}) for name, (path, body) in STREAMS.items()}
    begun = Asking(server, streams)
    wait_for(lambda: begun.begun == set(STREAMS), "all streams have begun")
    whole = Asking(server, WHOLE)
    wait_for(lambda: in_workers(server) >= TEXTS, "all others run or wait")
    with server.new_client() as idle:
        idle.get("/livez")
        assert server.stop(timeout_s=END_TIMEOUT_S) == 0
    begun.join()
    whole.join()
    assert not any(process.is_running() for process in family)
    assert "Traceback" not in server.log
    assert "killed" not in server.log
    assert "cut off" not in server.log
    return begun, whole


@pytest.mark.parametrize("name", WHOLE)
def test_who_has_heard_nothing_gets_a_status(name: str, asked: tuple[Asking, Asking]) -> None:
    answer = asked[1].answers[name]
    assert isinstance(answer, tuple), answer
    status, text = answer
    assert status == 503, text
    assert json.loads(text)["error"]["message"] == "The server is stopping."


@pytest.mark.parametrize("name", STREAMS)
def test_who_reads_a_stream_gets_one_end(name: str, asked: tuple[Asking, Asking]) -> None:
    answer = asked[0].answers[name]
    assert isinstance(answer, tuple), answer
    status, text = answer
    assert status == 200
    assert text.count("The server is stopping.") == 1
    events = text.strip().split("\n\n")
    path, _ = STREAMS[name]
    if path in ("/v1/messages", "/v1/responses"):
        kind = "error" if path == "/v1/messages" else "response.failed"
        assert events[-1].startswith(f"event: {kind}\n")
    else:
        assert events[-1] == "data: [DONE]"
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == 503
