"""Streams of transcriptions: events for clients of OpenAI's API and of the reference alike."""

import asyncio
import json
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.pool.interface import PoolUnavailable
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Generate
from tests.frontend.fake_pool import FakePool
from tests.frontend.speech.conftest import MakeClient, form, multipart
from tests.frontend.speech.models import PATH, TRANSLATIONS, FakeRecordings, window_of


async def lines_of(client: Client, path: str = PATH, **fields: Any) -> list[str]:
    response = await client.post(path, **form(stream="true", **fields))
    assert response.status_code == 200, await response.get_data()
    assert response.content_type.startswith("text/event-stream")
    text = await response.get_data(as_text=True)
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line]


async def events_of(client: Client, path: str = PATH, **fields: Any) -> list[dict[str, Any]]:
    *events, done = await lines_of(client, path, **fields)
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


async def test_deltas_and_done(make_client: MakeClient, recordings: FakeRecordings) -> None:
    recordings.windows = [(0.0, 20.0), (21.0, 3.5)]
    client = make_client([" What is", " the answer? 你"])
    *deltas, done = await events_of(client, language="en")
    assert len(deltas) > 2  # tokens are told as they come
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert "".join(event["delta"] for event in deltas) == "What is the answer? 你"
    assert (done["type"], done["text"]) == ("transcript.text.done", "What is the answer? 你")
    usage = done["usage"]
    assert usage["type"] == "tokens"
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"]
    assert usage["input_token_details"]["text_tokens"] == 2 * 4
    assert usage["seconds"] == 25


@pytest.mark.parametrize("path", [PATH, TRANSLATIONS])
async def test_the_references_chunks(make_client: MakeClient, path: str) -> None:
    events = await events_of(make_client(), path, language="en", request_id="mine")
    kind = "transcription" if path == PATH else "translation"
    assert {event["object"] for event in events} == {f"{kind}.chunk"}
    assert {event["model"] for event in events} == {"smol"}
    assert {event["id"] for event in events} == {"trsc-mine" if path == PATH else "trsl-mine"}
    choices = [choice for event in events for choice in event["choices"]]
    assert "".join(choice["delta"]["content"] for choice in choices) == "The capital of France."
    assert choices[-1]["finish_reason"] == "stop"
    assert all("usage" not in event for event in events[:-1])


async def test_usage_in_a_chunk_of_its_own(make_client: MakeClient) -> None:
    events = await events_of(make_client(), language="en", stream_include_usage="true")
    assert events[-1]["choices"] == []
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    usage = events[-1]["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    continuous = await events_of(
        make_client(),
        language="en",
        stream_include_usage="true",
        stream_continuous_usage_stats="true",
    )
    counts = [event["usage"]["completion_tokens"] for event in continuous if "usage" in event]
    assert counts == sorted(counts)
    assert len(counts) > 2


async def test_logprobs(make_client: MakeClient) -> None:
    events = await events_of(make_client(), language="en", **{"include[]": "logprobs"})
    tokens = [item["token"] for event in events for item in event.get("logprobs", [])]
    assert "".join(tokens) == " The capital of France."


async def test_order_is_that_of_the_recording(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = [(float(start), 1.0) for start in range(5)]

    def script(window: int, request: Generate) -> list[str]:
        return [" The" * (5 - window) + " answer" * window]

    events = await events_of(make_client(script), language="en")
    expected = " ".join(("The " * (5 - n) + "answer " * n).strip() for n in range(5))
    assert events[-1]["text"] == expected


async def test_text_comes_before_the_recording_is_transcribed(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = [(0.0, 20.0), (21.0, 20.0)]
    client = make_client([" The capital of", " France"])
    pool.hold_from, pool.hold_after = 1, 0  # the second window
    sent = multipart([("stream", "true"), ("language", "en")])
    async with client.request(PATH, method="POST", headers=sent["headers"]) as stream:
        await stream.send(sent["data"])
        await stream.send_complete()
        async with asyncio.timeout(5):
            text = (await stream.receive()).decode()
            while "capital" not in text:
                text += (await stream.receive()).decode()
            assert "France" not in text
            pool.release.set()
            while "[DONE]" not in text:
                text += (await stream.receive()).decode()
    assert "France" in text


async def test_a_failure_before_the_first_text_is_a_status(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.error, recordings.windows = "the file is not audio", []
    response = await make_client().post(PATH, **form(stream="true"))
    assert response.status_code == 400


async def test_a_failure_after_it_ends_the_stream(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = [(0.0, 20.0), (21.0, 20.0)]
    client = make_client([" The capital of", " France"])
    unchanged = pool.change

    def change(request: Generate, output: Output) -> Output:
        if window_of(request) == 1:
            raise PoolUnavailable("no worker is there")
        return unchanged(request, output)

    pool.change, pool.hold_from, pool.hold_after = change, 1, 0
    sent = multipart([("stream", "true"), ("language", "en")])
    async with client.request(PATH, method="POST", headers=sent["headers"]) as stream:
        await stream.send(sent["data"])
        await stream.send_complete()
        async with asyncio.timeout(5):
            text = ""
            while "[DONE]" not in text:
                text += (await stream.receive()).decode()
                if "capital" in text:
                    pool.release.set()
    last = text.strip().split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == 503


async def test_a_silent_stream_says_that_it_lives(make_client: MakeClient, pool: FakePool) -> None:
    client = make_client(settings={"sse_keep_alive_interval_s": 0.02})
    pool.hold_after = 0
    sent = multipart([("stream", "true"), ("language", "en")])
    async with client.request(PATH, method="POST", headers=sent["headers"]) as stream:
        await stream.send(sent["data"])
        await stream.send_complete()
        async with asyncio.timeout(5):
            assert (await stream.receive()).decode() == ": keep-alive\n\n"
            pool.release.set()
            text = ""
            while "[DONE]" not in text:
                text += (await stream.receive()).decode()
    assert "transcript.text.done" in text


async def test_silence_is_not_told(make_client: MakeClient, recordings: FakeRecordings) -> None:
    recordings.windows = [(0.0, 20.0), (21.0, 20.0)]

    def no_speech(request: Generate) -> float:
        return 0.9 if window_of(request) == 0 else 0.1

    client = make_client([" Hello", " Paris"], no_speech=no_speech, logprob=lambda _: -1.5)
    events = await events_of(client, language="en")
    assert events[-1]["text"] == "Paris"
    # Where the text is likely, it is no silence.
    likely = make_client([" Hello", " Paris"], no_speech=no_speech)
    assert (await events_of(likely, language="en"))[-1]["text"] == "Hello Paris"


async def test_with_fallback_windows_are_told_whole(
    make_client: MakeClient, pool: FakePool
) -> None:
    def logprob(request: Generate) -> float:
        return -3.0 if request.sampling.temperature == 0 else -0.1

    def script(window: int, request: Generate) -> list[str]:
        return [" Hello" if request.sampling.temperature == 0 else " The capital"]

    client = make_client(script, logprob=logprob)
    events = await events_of(client, language="en", temperature_fallback="true")
    assert [event["delta"] for event in events if "delta" in event] == ["The capital"]
    assert len(pool.requests) == 2
    live = await events_of(make_client(script, logprob=logprob), language="en")
    assert live[-1]["text"] == "Hello"  # without: what is told cannot be taken back
