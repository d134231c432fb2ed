"""Measure how long one request blocks a frontend's event loop.

Each case is sent to a pool of the fake engine with one frontend, while another connection requests
/version without a pause: the slowest of its responses is the longest time for which the frontend
did nothing else. The last cases cannot be run on the fake engine and run here, without a pool: a
parser of tool calls, fed in pieces of 8 characters, and beams longer than the default model's
context. `--than` names another checkout (of either layout, see bench/load/layouts.py), which is
measured first.

Usage: python -m bench.stalls [--than FOLDER] [--rounds 3] [--only NAME]
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.load.fake_pools import pool
from bench.load.layouts import ROOT
from headrace.frontend.chat.tools.formats.pythonic import PythonicParser
from headrace.frontend.chat.tools.reader import ToolCallReader
from headrace.frontend.generation.beam_search import BeamSearch
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_frontend import Logprobs, Output
from headrace.protocol.to_worker import REQUESTS, Generate

CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
RESPONSES = "/v1/responses"
HELLO = {"role": "user", "content": "hello there"}


def tool_uses(count: int) -> list[dict[str, Any]]:
    """Return a chat of so many tool calls and results, in Anthropic's content blocks."""
    chat: list[dict[str, Any]] = [HELLO]
    for number in range(count):
        call = {"type": "tool_use", "id": f"t{number}", "name": "f", "input": {"a": number}}
        result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": "ok"}
        chat += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return chat


def raw(path: str, body: str) -> tuple[str, bytes]:
    """Return a request with a body that is given as text."""
    return path, body.encode()


def request(path: str, **fields: Any) -> tuple[str, bytes]:
    """Return a request with a body of these fields."""
    return path, json.dumps(fields, separators=(",", ":")).encode()


CASES: dict[str, Callable[[], tuple[str, bytes]]] = {
    "nothing": lambda: request(CHAT, messages=[HELLO], max_tokens=1),
    "10,000 messages": lambda: request(CHAT, messages=[HELLO] * 10_000, max_tokens=1),
    "10,000 items of a response": lambda: request(
        RESPONSES, input=[HELLO] * 10_000, max_output_tokens=1
    ),
    "3,000 calls, Messages": lambda: request(
        MESSAGES, model="SmolLM2-135M-Instruct", messages=tool_uses(3000), max_tokens=1
    ),
    "500,000 keys": lambda: request(
        CHAT, messages=[HELLO], metadata={f"key{number:06}": 1 for number in range(500_000)}
    ),
    "2,000,000 empty lists": lambda: raw(CHAT, '{"a":[' + "[]," * 2_000_000 + "1]}"),
    "4,000,000 token ids": lambda: raw(COMPLETIONS, '{"prompt":[' + "5," * 4_000_000 + "5]}"),
    "900,000 token ids": lambda: raw(COMPLETIONS, '{"prompt":[' + "5," * 900_000 + "5]}"),
    "8 MB of escapes": lambda: request(COMPLETIONS, prompt="\n" * 4_000_000, max_tokens=1),
    "8 MB of text": lambda: request(COMPLETIONS, prompt="word " * 1_600_000, max_tokens=1),
    "32 beams of 8,000 tokens": lambda: request(
        COMPLETIONS, prompt=[5] * 8000, use_beam_search=True, n=32, max_tokens=16
    ),
}


class Prober:
    """Sends small requests to a server without a pause, and keeps the longest latency."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.slowest_s = 0.0

    def __enter__(self) -> "Prober":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(http.client.HTTPConnection(self._address)) as connection:
            while not self._ended.is_set():
                started = time.perf_counter()
                connection.request("GET", "/version")
                connection.getresponse().read()
                self.slowest_s = max(self.slowest_s, time.perf_counter() - started)
                time.sleep(0.001)


def send_and_probe(url: str, path: str, body: bytes) -> tuple[float, float, int]:
    """Send a request; return the slowest probe and the latency, in seconds, and the status."""
    address = urlsplit(url).netloc
    with contextlib.closing(http.client.HTTPConnection(address, timeout=120)) as connection:
        with Prober(url) as prober:
            time.sleep(0.05)
            started = time.perf_counter()
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            took = time.perf_counter() - started
            time.sleep(0.05)
        return prober.slowest_s, took, response.status


def slowest_piece(values: str) -> float:
    """Return the seconds of the piece that takes the tool call parser longest."""
    text = f"[call(a=[{values}])]"
    reader, slowest = ToolCallReader(PythonicParser()), 0.0
    for start in range(0, len(text), 8):
        started = time.perf_counter()
        reader.feed(text[start : start + 8])
        slowest = max(slowest, time.perf_counter() - started)
    return slowest


class EncodingStream:
    """The outputs of one request of a beam search; it costs the encoding of the request only."""

    def __init__(self, request: Generate) -> None:
        self._request = request

    def __aiter__(self) -> "EncodingStream":
        return self

    async def __anext__(self) -> Output:
        REQUESTS.encode(self._request)
        ids = tuple(range(10, 10 + (self._request.sampling.logprobs or 0)))
        at = Logprobs(10, -1.0, 1, ids, tuple(-1.0 - 0.01 * rank for rank in range(len(ids))))
        return Output(self._request.request_id, (10,), 0, "length", logprobs=(at,))

    def ready(self) -> None:
        return None

    def cancel(self) -> None:
        pass


async def beams_stall(beams: int, tokens: int) -> float:
    """Return the longest time, in seconds, for which a beam search blocks another task."""
    request = Generate("b", (5,) * tokens, SamplingParams(seed=0, max_tokens=3))
    search = BeamSearch(request, beams, 1.0, EncodingStream, lambda: "b")
    result = asyncio.create_task(search.result(0))
    longest, before = 0.0, time.perf_counter()
    while not result.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
    await result
    return longest


def measure(checkout: Path, rounds: int, only: str) -> None:
    """Run the cases on a pool of a checkout and print a line for each."""
    with pool(checkout, None, 0.0) as started:
        for name, make in CASES.items():
            if only not in name:
                continue
            path, body = make()
            result = [send_and_probe(started.url, path, body) for _ in range(rounds)]
            stalls, took, statuses = zip(*result, strict=True)
            print(
                f"{name:30}{len(body) / 1e6:7.2f} MB {statuses[0]}: longest stall, median of"
                f" {rounds} {statistics.median(stalls) * 1e3:6.0f} ms, worst"
                f" {max(stalls) * 1e3:6.0f}; answered in {statistics.median(took) * 1e3:6.0f}",
                flush=True,
            )


def main() -> None:
    """Measure both checkouts, then the cases without a pool."""
    parser = argparse.ArgumentParser(prog="bench.stalls")
    parser.add_argument("--than", type=Path, help="another checkout, measured first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="run only the cases whose names contain this")
    options = parser.parse_args()
    for checkout in filter(None, (options.than, ROOT)):
        print("that:" if checkout == options.than else "this:")
        measure(checkout, options.rounds, options.only)
    for name, values in (("33,000 lists", "[]," * 33_000), ("50,000 numbers", "1," * 50_000)):
        slowest = min(slowest_piece(values) for _ in range(options.rounds))
        print(f"a call of 100 kB, {name}, in this checkout: {slowest * 1e3:.0f} ms for a piece")
    slowest = min(asyncio.run(beams_stall(32, 131_000)) for _ in range(options.rounds))
    print(f"32 beams of 131,000 tokens, in this checkout: {slowest * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
