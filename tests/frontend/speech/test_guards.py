"""Texts that fail the guards are written again, and silence leaves none."""

from dataclasses import replace
from typing import Any

import pytest

from headrace.protocol.config import ServingOptions
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Generate
from tests.frontend.fake_pool import FakePool
from tests.frontend.speech.conftest import MakeClient, form
from tests.frontend.speech.models import PATH, FakeRecordings, window_of
from tests.frontend.speech.test_transcriptions import body_of

LOOP = " The answer" * 40
SERVING = "serving"


def by_temperature(texts: dict[float, str]) -> Any:
    def script(window: int, request: Generate) -> list[str]:
        return [texts.get(request.sampling.temperature, LOOP)]

    return script


def temperatures(pool: FakePool) -> list[float]:
    return [request.sampling.temperature for request in pool.requests]


async def test_repetition_is_tried_again(make_client: MakeClient, pool: FakePool) -> None:
    client = make_client(by_temperature({0.4: " The capital of France"}))
    body = await body_of(client, language="en", response_format="verbose_json")
    assert body["text"] == "The capital of France"
    assert body["segments"][0]["temperature"] == 0.4
    assert temperatures(pool) == [0.0, 0.2, 0.4]
    rules = [request.sampling.repetition_detection for request in pool.requests]
    assert all(rules)  # a loop is not written to its end
    digests = {request.audio.digest for request in pool.requests if request.audio}
    assert len(digests) == 1
    assert len({request.sampling.seed for request in pool.requests}) == 3
    text = await (await client.get("/metrics")).get_data(as_text=True)
    assert 'headrace:audio_window_fallbacks_total{model_name="smol"} 2.0' in text


async def test_an_output_that_was_ended_is_tried_again(
    make_client: MakeClient, pool: FakePool
) -> None:
    client = make_client(by_temperature({0.0: " Hello Hello", 0.2: " Hello Paris"}))
    unchanged = pool.change

    def change(request: Generate, output: Output) -> Output:
        output = unchanged(request, output)
        is_ended = output.finish_reason is not None and request.sampling.temperature == 0
        return replace(output, finish_reason="repetition") if is_ended else output

    pool.change = change
    assert (await body_of(client, language="en"))["text"] == "Hello Paris"
    assert temperatures(pool) == [0.0, 0.2]


async def test_unlikely_texts_are_tried_again_and_the_likeliest_counts(
    make_client: MakeClient, pool: FakePool
) -> None:
    likely = {0.0: -1.5, 0.2: -1.2, 0.4: -1.4}
    client = make_client(
        by_temperature({0.0: " Hello", 0.2: " Paris", 0.4: " France"}),
        logprob=lambda request: likely.get(request.sampling.temperature, -2.0),
    )
    assert (await body_of(client, language="en"))["text"] == "Paris"
    assert temperatures(pool) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert pool.requests[-1].sampling.repetition_detection is None


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature_fallback": "false"},
        {"temperature": 0.3},
        {"compression_ratio_threshold": 1000},
    ],
)
async def test_without_fallback(
    make_client: MakeClient, pool: FakePool, fields: dict[str, Any]
) -> None:
    body = await body_of(make_client(by_temperature({})), language="en", **fields)
    assert len(body["text"]) == len(LOOP) - 1
    assert len(pool.requests) == 1
    assert pool.requests[0].sampling.repetition_detection is None or "threshold" in str(fields)


async def test_silence(make_client: MakeClient, pool: FakePool, recordings: FakeRecordings) -> None:
    recordings.windows = [(0.0, 20.0), (21.0, 20.0)]

    def make(**guards: Any) -> Any:
        return make_client(
            [" Hello", " Paris"], no_speech=lambda _: 0.7, logprob=lambda _: -1.5, **guards
        )

    body = await body_of(make(), language="en", response_format="verbose_json")
    assert (body["text"], body["segments"]) == ("", [])
    assert len(pool.requests) == 2  # nothing is tried again
    heard = await body_of(make(), language="en", no_speech_threshold=0.8, logprob_threshold=-2)
    assert heard["text"] == "Hello Paris"


async def test_the_operators_thresholds(make_client: MakeClient, pool: FakePool) -> None:
    serving = ServingOptions(temperature_fallback=False, no_speech_threshold=0.5)
    client = make_client(by_temperature({}), no_speech=lambda _: 0.3, settings={SERVING: serving})
    await body_of(client, language="en")
    assert len(pool.requests) == 1
    await body_of(client, language="en", temperature_fallback="true")
    assert len(pool.requests) == 1 + 6
    silent = make_client(
        [" Hello"],
        no_speech=lambda _: 0.55,
        logprob=lambda _: -1.5,
        settings={SERVING: serving},
    )
    assert (await body_of(silent, PATH, language="en"))["text"] == ""


async def test_steady_sound_is_silence_where_the_model_doubts(
    make_client: MakeClient, recordings: FakeRecordings
) -> None:
    client = make_client(
        [" Thanks for watching!"], no_speech=lambda _: 0.25, logprob=lambda _: -0.7
    )
    assert (await body_of(client, language="en"))["text"] == "Thanks for watching!"
    recordings.changes_db = [1.2]
    assert (await body_of(client, language="en"))["text"] == ""
    heard = await body_of(client, language="en", steady_no_speech_threshold=0.3)
    assert heard["text"] == "Thanks for watching!"
    for no_speech, logprob, text in ((0.15, -0.7, "Yes"), (0.5, -0.4, "Yes"), (0.7, -0.4, "")):
        client = make_client(
            [" Yes"], no_speech=lambda _, is_=no_speech: is_, logprob=lambda _, is_=logprob: is_
        )
        assert (await body_of(client, language="en"))["text"] == text


@pytest.mark.parametrize(("no_speech", "count"), [(0.4, 2), (0.3, 3)])
async def test_two_rejected_texts_are_silence_where_the_model_doubts(
    make_client: MakeClient, pool: FakePool, no_speech: float, count: int
) -> None:
    texts = by_temperature({0.4: " The answer"})
    client = make_client(texts, no_speech=lambda _: no_speech)
    text = (await body_of(client, language="en"))["text"]
    assert text == ("" if count == 2 else "The answer")
    assert len(pool.requests) == count
    pool.requests.clear()
    heard = await body_of(client, language="en", rejected_no_speech_threshold=1)
    assert heard["text"] == "The answer"


async def test_a_second_text_that_passes_counts(make_client: MakeClient) -> None:
    client = make_client(by_temperature({0.2: " Paris"}), no_speech=lambda _: 0.4)
    assert (await body_of(client, language="en"))["text"] == "Paris"


async def test_an_only_text_that_fails_is_silence_too(make_client: MakeClient) -> None:
    client = make_client([" Hello", " Paris"], no_speech=lambda _: 0.4, logprob=lambda _: -1.5)
    for fields in ({"temperature": 0.5}, {"temperature_fallback": "false"}):
        assert (await body_of(client, language="en", **fields))["text"] == ""


async def test_a_loop_that_was_ended_is_rejected(make_client: MakeClient, pool: FakePool) -> None:
    """Its text may be too short to compress well."""
    client = make_client(by_temperature({0.0: " 1.1.1.1", 0.2: " Paris"}))
    change = pool.change

    def ended(request: Generate, output: Output) -> Output:
        output = change(request, output)
        if request.sampling.temperature == 0 and output.finish_reason is not None:
            return replace(output, finish_reason="repetition")
        return output

    pool.change = ended
    assert (await body_of(client, language="en"))["text"] == "Paris"


async def test_noise_in_front_tells_no_language(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = [(0.0, 20.0), (21.0, 20.0), (42.0, 20.0)]
    recordings.changes_db = [1.0, 4.0, 4.0]
    client = make_client([" What", " is", " that"], language="zh")
    change = pool.reply

    def reply(request: Generate) -> list[int]:
        ids = change(request)
        return [ids[0] + 1] if request.sampling.allowed_token_ids and window_of(request) else ids

    pool.reply = reply
    body = await body_of(client, response_format="verbose_json")
    assert body["language"] == "german"
    detecting = [each for each in pool.requests if each.sampling.allowed_token_ids]
    assert [window_of(each) for each in detecting] == [0, 1]


@pytest.mark.parametrize(("no_speech", "told"), [(0.75, "you"), (0.85, "")])
async def test_sure_silence(make_client: MakeClient, no_speech: float, told: str) -> None:
    client = make_client([" you"], no_speech=lambda _: no_speech, logprob=lambda _: -0.9)
    assert (await body_of(client, language="en"))["text"] == told


async def test_streams_hold_back_what_may_be_noise(make_client: MakeClient) -> None:
    client = make_client([" you"], no_speech=lambda _: 0.4, logprob=lambda _: -1.5)
    response = await client.post(PATH, **form(language="en", stream="true"))
    assert '"delta":"' not in await response.get_data(as_text=True)
