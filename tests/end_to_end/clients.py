"""Clients that ask a pool again and again, and check each answer."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.end_to_end.servers import Server

PROMPTS = 4
LENGTH = 60


class Clients:
    """Clients that ask again and again, each on a connection that it keeps for as long as the
    server does, every other one for streams."""

    def __init__(self, server: Server, count: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._server, self._over = server, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(each,)) for each in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, number: int) -> None:
        with self._server.new_client() as client:
            body = _body(number)
            expected = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
            while not self._over.is_set():
                self.outcomes[self._outcome(client, number, expected)] += 1

    @staticmethod
    def _outcome(client: httpx.Client, number: int, expected: str) -> str:
        """ "whole", or what went wrong."""
        body = {**_body(number), "stream": bool(number % 2)}
        try:
            answer = client.post("/v1/completions", json=body)
        except httpx.HTTPError as error:
            return f"failed: {error!r}"
        if answer.status_code != 200 or '"error"' in answer.text:
            return f"failed: {answer.status_code} {answer.text[-200:]}"
        text = _streamed(answer.text) if number % 2 else answer.json()["choices"][0]["text"]
        return "whole" if text == expected else f"failed: {text!r} instead of {expected!r}"


def _body(number: int) -> dict[str, object]:
    return {"prompt": f"hello {number % PROMPTS}", "max_tokens": LENGTH, "ignore_eos": True}


def _streamed(events: str) -> str:
    """The text of a stream; something else if it has not ended."""
    *chunks, end = [line[6:] for line in events.splitlines() if line.startswith("data: ")]
    text = "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)
    return text if end == "[DONE]" else f"{text} (no end)"


@contextmanager
def clients(server: Server, count: int) -> Iterator[Clients]:
    asking = Clients(server, count)
    try:
        yield asking
    finally:
        asking.stop()
