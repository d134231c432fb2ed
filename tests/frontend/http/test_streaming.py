"""In which pieces the events of a stream are sent."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest

from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.generation.generation import Generation
from headrace.frontend.metrics import RequestObserver
from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.interface import RequestLost
from headrace.frontend.streaming import MAX_EVENTS, stream_response
from headrace.frontend.text.detokenizer import ByteDetokenizer
from headrace.frontend.text.stop_strings import StopMatcher
from headrace.frontend.text.token_bytes import TokenBytes, token_bytes_of
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_frontend import Admission, FinishReason, Output
from headrace.protocol.to_worker import Generate
from tests.frontend.text.tokenizers_for_tests import byte_level

TOKENIZER = byte_level()
PIECES = cast(TokenBytes, token_bytes_of(TOKENIZER))
A = TOKENIZER.encode("a").ids[0]
DONE = "data: [DONE]\n\n"


class Observer:
    def output(self, tokens: int, admission: Admission | None) -> None: ...

    def finish(self, reason: str) -> None: ...


class Chunks:
    """Each event is its text in brackets."""

    def first(self, choices: Sequence[Choice]) -> str:
        return "[first]"

    def chunk(self, choices: Sequence[Choice], choice: Choice, delta: Delta) -> str:
        return f"[{delta.text}]"

    def last(self, choices: Sequence[Choice]) -> str:
        return "[last]"


class Stream:
    """A request in flight, and the pieces of its answer."""

    def __init__(self, *stops: str) -> None:
        sampling = SamplingParams(max_tokens=1000, seed=1)
        request = Generate("r", (1,), sampling)
        self.flight = Flight("g", request, start=lambda _: None, end=lambda _: None)
        observer: RequestObserver = Observer()
        choice = Choice(
            0, 0, ByteDetokenizer(PIECES, frozenset()), StopMatcher(stops, False), observer
        )
        self._generation = Generation([choice], [self.flight])
        self._position = 0

    def put(self, count: int = 1, end: bool = False) -> None:
        """So many outputs of a token each."""
        for number in range(count):
            reason: FinishReason | None = "length" if end and number == count - 1 else None
            self.flight.add_output(Output("r", (A,), self._position, reason))
            self._position += 1

    async def pieces(self) -> AsyncIterator[str]:
        response = await stream_response(self._generation, Chunks())
        async with response.response as body:
            async for piece in body:
                yield cast(bytes, piece).decode()


async def test_what_comes_one_by_one_is_sent_one_by_one() -> None:
    stream = Stream()
    stream.put()
    pieces = stream.pieces()
    assert await anext(pieces) == "[first][a]"
    for _ in range(3):
        waiting = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        assert not waiting.done()
        stream.put()
        assert await waiting == "[a]"
    stream.put(end=True)
    assert [piece async for piece in pieces] == ["[a][last]" + DONE]


async def test_what_has_come_meanwhile_is_sent_at_once_an_event_for_each_output() -> None:
    stream = Stream()
    stream.put()
    pieces = stream.pieces()
    await anext(pieces)
    stream.put(5)
    assert await anext(pieces) == "[a]" * 5
    stream.put(3, end=True)
    assert [piece async for piece in pieces] == ["[a]" * 3 + "[last]" + DONE]


async def test_a_piece_has_a_limit() -> None:
    stream = Stream()
    stream.put(2 * MAX_EVENTS, end=True)
    pieces = [piece async for piece in stream.pieces()]
    assert all(piece.count("[a]") <= MAX_EVENTS for piece in pieces)
    assert "".join(pieces) == "[first]" + "[a]" * 2 * MAX_EVENTS + "[last]" + DONE


@pytest.mark.parametrize("waiting", [True, False])
async def test_text_that_came_before_an_error_is_sent(waiting: bool) -> None:
    stream = Stream()
    stream.put()
    pieces = stream.pieces()
    await anext(pieces)
    stream.put(2)
    if waiting:
        assert await anext(pieces) == "[a][a]"
    stream.flight.fail(RequestLost("the workers that ran it have failed"))
    rest = "".join([piece async for piece in pieces])
    assert rest.startswith('data: {"error"' if waiting else '[a][a]data: {"error"')
    assert rest.endswith(DONE)


async def test_nothing_follows_a_stop_string_of_what_had_come() -> None:
    stream = Stream("aaa")
    stream.put(10)
    assert "".join([piece async for piece in stream.pieces()]) == "[first][][][][last]" + DONE
