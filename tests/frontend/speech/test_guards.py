"""Texts that fail the guards are written again, and silence leaves none."""

from typing import Any

import pytest

from headrace.protocol.config import ServingOptions
from headrace.protocol.to_worker import Generate
from tests.frontend.fake_pool import FakePool
from tests.frontend.speech.conftest import MakeClient
from tests.frontend.speech.models import PATH, FakeRecordings
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
