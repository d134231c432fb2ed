"""In which pieces the events of a stream are sent."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.generation.generation import Generation
from headrace.frontend.metrics import RequestObserver
from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.interface import RequestLost
from headrace.frontend.streaming import KEEP_ALIVE, MAX_EVENTS, SilenceTimer, stream_response
from headrace.frontend.text.detokenizer import ByteDetokenizer
from headrace.frontend.text.stop_strings import StopMatcher
from headrace.frontend.text.token_bytes import TokenBytes, token_bytes_of
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_frontend import Admission, FinishReason, Output
from headrace.protocol.to_worker import Generate
from tests.frontend.text.tokenizers_for_tests import byte_level

TOKENIZER = byte_level()
PIECES = cast(TokenBytes, token_bytes_of(TOKENIZER))
A, B = (TOKENIZER.encode(letter).ids[0] for letter in "ab")
DONE = "data: [DONE]\n\n"


class Observer:
    def output(self, tokens: int, admission: Admission | None) -> None: ...

    def finish(self, reason: str) -> None: ...

    def leave_unread(self, tokens: int) -> None: ...

    def note_client_wait(self, seconds: float) -> None: ...


class Chunks:
    """Each event is its text in brackets; letters b are kept to itself."""

    def first(self, choices: Sequence[Choice]) -> str:
        return "[first]"

    def chunk(self, choices: Sequence[Choice], choice: Choice, delta: Delta) -> str:
        return "" if "b" in delta.text else f"[{delta.text}]"

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

    def put(self, count: int = 1, end: bool = False, token_id: int = A) -> None:
        """So many outputs of a token each."""
        for number in range(count):
            reason: FinishReason | None = "length" if end and number == count - 1 else None
            self.flight.add_output(Output("r", (token_id,), self._position, reason))
            self._position += 1

    async def pieces(self, keep_alive_s: float = 0.0) -> AsyncIterator[str]:
        response = await stream_response(self._generation, Chunks(), keep_alive_s=keep_alive_s)
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


async def test_others_get_their_turn_while_a_backlog_is_sent() -> None:
    """A connection whose client has gone takes all at once; its request is cancelled meanwhile."""
    stream = Stream()
    stream.put(15 * MAX_EVENTS, end=True)
    sent: list[str] = []
    has_begun = asyncio.Event()

    async def send() -> None:
        async for piece in stream.pieces():
            sent.append(piece)
            has_begun.set()

    sending = asyncio.ensure_future(send())
    await has_begun.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert len(sent) <= 2


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


INTERVAL_S = 0.05


async def test_silence_is_filled_before_the_first_event_and_between_events() -> None:
    stream = Stream()
    pieces = stream.pieces(INTERVAL_S)
    assert [await anext(pieces), await anext(pieces)] == [KEEP_ALIVE] * 2
    stream.put()
    assert await anext(pieces) == "[first][a]"
    assert [await anext(pieces), await anext(pieces)] == [KEEP_ALIVE] * 2
    stream.put(end=True)
    assert [piece async for piece in pieces] == ["[a][last]" + DONE]


async def test_a_comment_comes_only_after_an_interval_without_events() -> None:
    stream = Stream()
    pieces = stream.pieces(4 * INTERVAL_S)
    stream.put()
    started = time.monotonic()
    assert await anext(pieces) == "[first][a]"
    for _ in range(6):
        await asyncio.sleep(INTERVAL_S)
        stream.put()
        assert await anext(pieces) == "[a]"
    said = time.monotonic()
    assert said - started > 4 * INTERVAL_S
    assert await anext(pieces) == KEEP_ALIVE
    assert time.monotonic() - said >= 3.9 * INTERVAL_S


async def test_events_of_which_nothing_is_shown_are_silence() -> None:
    stream = Stream()
    stream.put()
    pieces = stream.pieces(INTERVAL_S)
    await anext(pieces)
    waiting = asyncio.ensure_future(anext(pieces))
    for _ in range(10):
        stream.put(token_id=B)
        await asyncio.sleep(INTERVAL_S / 4)
    assert await waiting == KEEP_ALIVE
    stream.put(end=True)
    assert "".join([piece async for piece in pieces]).removeprefix(KEEP_ALIVE) == (
        "[a][last]" + DONE
    )


async def test_what_fails_before_the_first_comment_is_an_error_of_its_own() -> None:
    stream = Stream()
    asyncio.get_running_loop().call_soon(stream.flight.fail, RequestLost("lost"))
    with pytest.raises(RequestLost):
        await anext(stream.pieces(INTERVAL_S))


async def test_what_fails_after_it_is_one_event() -> None:
    stream = Stream()
    pieces = stream.pieces(INTERVAL_S)
    assert await anext(pieces) == KEEP_ALIVE
    stream.flight.fail(RequestLost("lost"))
    rest = "".join([piece async for piece in pieces])
    assert rest.startswith('data: {"error":{"message":"lost"')
    assert rest.endswith(DONE)
    assert "first" not in rest


async def test_without_an_interval_nothing_fills_the_silence() -> None:
    stream = Stream()
    waiting = asyncio.ensure_future(anext(stream.pieces()))
    await asyncio.sleep(2 * INTERVAL_S)
    assert not waiting.done()
    stream.put(end=True)
    assert await waiting == "[first][a][last]" + DONE


async def test_nothing_wakes_up_for_a_stream_that_has_ended() -> None:
    silence = SilenceTimer(INTERVAL_S, lambda: pytest.fail("it has been stopped"))
    silence.stop()
    await asyncio.sleep(2 * INTERVAL_S)


async def test_the_timer_is_one_for_all_events(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    timers: list[object] = []
    call_later = loop.call_later

    def counted(*args: Any) -> asyncio.TimerHandle:
        timers.append(args)
        return call_later(*args)

    monkeypatch.setattr(loop, "call_later", counted)
    stream = Stream()
    stream.put()
    pieces = stream.pieces(10.0)
    await anext(pieces)
    for _ in range(100):
        stream.put()
        await anext(pieces)
    assert len(timers) == 1
