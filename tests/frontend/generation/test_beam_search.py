"""Beam search by HTTP, and its end in whatever way."""

import asyncio
import gc
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.generation import beam_search as beam
from headrace.frontend.generation.beam_search import BeamSearch
from headrace.frontend.generation.generation import Generation
from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.interface import PoolBusy
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.state import READY
from headrace.protocol.to_worker import Generate
from tests.frontend.asking import ask, complete, rejection
from tests.frontend.fake_pool import FakePool, FakeStream
from tests.frontend.pool.dispatching import Wire


@pytest.fixture
def counting(pool: FakePool) -> FakePool:
    """The likeliest token is the number of tokens so far, the next ones are those that follow."""
    pool.reply = lambda request: [300 + len(request.prompt_token_ids)]
    return pool


async def test_n_texts_in_one_piece(
    client: Client, counting: FakePool, text: ModelTokenizer
) -> None:
    response, body = await ask(client, use_beam_search=True, n=3, max_tokens=4, temperature=0)
    assert response.status_code == 200, body
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    shown = [choice["message"]["content"] for choice in body["choices"]]
    assert len(set(shown)) == 3
    start = len(counting.requests[0].prompt_token_ids)
    likeliest = [300 + start + index for index in range(4)]
    assert shown[0] == await text.decode(likeliest, skip_special_tokens=True)
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["prompt_tokens"] == start
    # one beam at first, then three
    assert len(counting.requests) == 1 + 3 * 3
    assert {r.sampling.logprobs for r in counting.requests} == {6}
    assert {r.sampling.max_tokens for r in counting.requests} == {1}


async def test_completions_with_log_probabilities_and_several_prompts(
    client: Client, counting: FakePool
) -> None:
    fields = {"use_beam_search": True, "n": 2, "max_tokens": 3, "logprobs": 1, "echo": True}
    response, body = await complete(client, prompt=["Hello", "the world"], **fields)
    assert response.status_code == 200, body
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    for choice, prompt in zip(body["choices"], ("Hello", "Hello", "the", "the"), strict=True):
        assert choice["text"].startswith(prompt)
        values = choice["logprobs"]["token_logprobs"]
        assert values[0] is None
        assert all(value <= 0 for value in values[1:])
    assert body["choices"][0]["logprobs"]["token_logprobs"][-3:] == [-0.25] * 3


async def test_the_length_penalty_and_the_end_decide(
    client: Client, counting: FakePool, text: ModelTokenizer
) -> None:
    stop = 300 + 1 + len(text.backend.encode("Hello").ids)
    fields = {"prompt": "Hello", "use_beam_search": True, "max_tokens": 8, "logprobs": 0}
    _, body = await complete(client, stop_token_ids=[stop], length_penalty=0, **fields)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["stop_reason"] == stop
    assert body["usage"]["completion_tokens"] == 2
    assert len(counting.requests) < 8  # no longer text can be better


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": True}, "use_beam_search"),
        ({"n": 33}, "n"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"allowed_token_ids": [5]}, "allowed_token_ids"),
        ({"bad_words": ["a"]}, "bad_words"),
        ({"min_tokens": 1}, "min_tokens"),
        ({"logprob_token_ids": [5], "logprobs": True}, "logprob_token_ids"),
        ({"repetition_detection": {"max_pattern_size": 2, "min_count": 3}}, "repetition_detection"),
        ({"length_penalty": 1e6}, "length_penalty"),
    ],
    ids=str,
)
async def test_what_does_not_go_with_it_is_refused(
    client: Client, pool: FakePool, fields: dict[str, Any], param: str
) -> None:
    error = await rejection(client, **{"use_beam_search": True, "max_tokens": 4, **fields})
    assert error["param"] == param
    assert pool.requests == []


async def test_a_failure_of_the_pool_is_the_requests(client: Client, counting: FakePool) -> None:
    counting.failure = PoolBusy("all queues are full")
    response, _ = await ask(client, use_beam_search=True, n=2, max_tokens=4)
    assert response.status_code == 429
    assert all(stream.cancelled for stream in counting.streams)


async def test_a_client_that_goes_frees_all(counting: FakePool) -> None:
    counting.hold_after = 0
    one = Generate("r", (1, 2, 3), SamplingParams(seed=0, max_tokens=5))
    search = BeamSearch(one, 2, 1.0, lambda r: counting.generate("main", r), lambda: "x")

    class Quiet:
        finished = False

        def finish(self, reason: str) -> None:
            self.finished = True

    quiet: list[Any] = [Quiet(), Quiet()]
    generation = Generation(quiet, search.streams())
    waiting = asyncio.create_task(anext(generation))
    await counting.wait_for_streams(1)
    await asyncio.sleep(0)
    waiting.cancel()
    generation.close()
    assert all(stream.cancelled for stream in counting.streams)
    assert search._task is not None
    with pytest.raises(asyncio.CancelledError):
        await search._task


async def test_a_client_that_goes_is_no_error_that_nobody_has_seen() -> None:
    """Just when the streams have been made, and before the first of them has been looked at."""
    unseen = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    wire = Wire()
    wire.state(w=READY)

    def leave() -> None:
        waiting.cancel()
        search.cancel()
        search.cancel()

    def generate(request: Generate) -> Flight:
        loop.call_soon(leave)
        return wire.dispatch.submit("g", request)

    one = Generate("r", (1, 2, 3), SamplingParams(seed=0, max_tokens=5))
    search = BeamSearch(one, 2, 1.0, generate, lambda: "x")
    waiting = asyncio.create_task(search.result(0))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert search._task is not None
    await asyncio.wait([search._task])
    await asyncio.sleep(0)
    search._task = None
    gc.collect()
    assert unseen == []


async def test_beams_of_long_texts_are_sent_with_turns_for_others_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Writing 32 times 128k tokens at once would hold all streams up."""
    turns = [0]

    async def others() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    sent = []
    pool = FakePool(lambda request: [300 + len(request.prompt_token_ids)])

    def generate(request: Generate) -> FakeStream:
        sent.append(turns[0])
        return pool.generate("main", request)

    monkeypatch.setattr(beam, "_MAX_TOKENS_WITHOUT_PAUSE", 100)
    request = Generate("r", tuple(range(60)), SamplingParams(seed=0, max_tokens=2, logprobs=None))
    search = BeamSearch(request, 8, 1.0, generate, lambda: "b")
    task = asyncio.create_task(others())
    await search.result(0)
    task.cancel()
    assert len(sent) == 9
    assert len(set(sent)) >= 5
