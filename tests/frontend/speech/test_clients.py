"""OpenAI's own client, and the decoders of recordings behind the routes."""

import io
import math
import wave
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from headrace.frontend.audio.decoders import AudioDecoders
from headrace.protocol.to_worker import Generate
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.speech.models import Workers, speech_text

WINDOW_BYTES = 80 * 3000 * 4
Serving = Callable[..., Any]


def tone(seconds: float, rate: int = 8000) -> bytes:
    """A WAV file with a tone that is interrupted each second."""
    samples = array("h")
    for number in range(int(seconds * rate)):
        is_loud = number % rate < 0.8 * rate
        samples.append(int(12_000 * math.sin(number * 0.3)) if is_loud else 0)
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(rate)
        written.writeframes(samples.tobytes())
    return file.getvalue()


@pytest.fixture
def serving(make_app: MAKE_APP, pool: FakePool) -> Serving:
    """OpenAI's client of a frontend that decodes recordings itself."""

    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[AsyncOpenAI]:
        model = speech_text()
        texts: dict[bytes, int] = {}

        def script(_: int, request: Generate) -> list[str | float]:
            number = texts.setdefault(request.audio.digest, len(texts))  # type: ignore[union-attr]
            return [0.0, " The capital" if number == 0 else " of France.", 2.0]

        workers = Workers(model, script)
        workers.join(pool)
        pool.reply = lambda request: _without_times(workers, request)
        decoders = AudioDecoders(2)
        app = make_app(model=model, recordings=decoders, **settings)
        transport = httpx2.ASGITransport(app)  # type: ignore[arg-type]
        http_client = httpx2.AsyncClient(transport=transport)
        async with (
            app.test_app(),
            AsyncOpenAI(
                base_url="http://test/v1", api_key="none", http_client=http_client, max_retries=0
            ) as client,
        ):
            yield client
        await decoders.close()

    return run


def _without_times(workers: Workers, request: Generate) -> list[int]:
    """What a worker writes, without times where its request has ruled them out."""
    audio = request.audio
    assert audio is not None
    if audio.alignment is not None or request.sampling.allowed_token_ids:
        return [workers.tokens.end if audio.alignment else workers.tokens.languages["de"]]
    assert len(audio.features) == WINDOW_BYTES
    ids = [*workers.ids(workers.script(0, request)), workers.tokens.end]
    first = workers.tokens.first_timestamp
    return ids if audio.timestamps is not None else [each for each in ids if each < first]


async def test_openais_client(serving: Serving, pool: FakePool) -> None:
    file = ("speech.wav", tone(2.0))
    async with serving() as client:
        create = client.audio.transcriptions.create
        plain = await create(model="smol", file=file, language="en")
        assert plain.text == "The capital"
        assert plain.usage is not None
        assert (plain.usage.type, plain.usage.seconds) == ("duration", 2)
        verbose = await create(
            model="smol",
            file=file,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            temperature=0,
            prompt="Hello",
            extra_body={"seed": 4, "hotwords": "Paris"},
        )
        assert (verbose.language, verbose.duration) == ("german", pytest.approx(2.0, abs=0.01))
        assert [segment.text for segment in verbose.segments or []] == [" The capital"]
        assert [word.word for word in verbose.words or []] == ["The", "capital"]
        srt = await create(model="smol", file=file, language="en", response_format="srt")
        assert srt.startswith("1\n00:00:00,000 --> 00:00:02,000\nThe capital")
        text = await create(model="smol", file=file, language="en", response_format="text")
        assert text.strip() == "The capital"
        with pytest.deprecated_call():  # so the client calls OpenAI's own
            translated = await client.audio.translations.create(model="smol", file=file)
        assert translated.text == "The capital"


async def test_openais_client_streams(serving: Serving) -> None:
    async with serving() as client:
        stream = await client.audio.transcriptions.create(
            model="smol",
            file=("speech.wav", tone(40.0)),
            language="en",
            stream=True,
            include=["logprobs"],
        )
        events = [event async for event in stream]
    *deltas, done = events
    assert "".join(event.delta for event in deltas) == "The capital of France."
    assert done.type == "transcript.text.done"
    assert done.text == "The capital of France."
    assert done.usage.total_tokens > 0
    assert deltas[0].logprobs[0].logprob == -0.25
    assert "".join(each.token for each in done.logprobs) == " The capital of France."


async def test_errors_of_openais_client(serving: Serving) -> None:
    async with serving(max_audio_decode_duration_s=1.5) as client:
        create = client.audio.transcriptions.create
        for data, reason in (
            (b"", "empty"),
            (b"this is text", "not audio"),
            (tone(1.0)[:4000], "truncated"),
            (tone(0.0), "0 s"),
            (tone(2.0), "longer than"),
        ):
            with pytest.raises(BadRequestError, match=reason) as raised:
                await create(model="smol", file=("speech.wav", data))
            assert raised.value.param == "file"
        with pytest.raises(NotFoundError):
            await create(model="other", file=("speech.wav", tone(1.0)))
        answer = await create(model="smol", file=("speech.wav", tone(1.0)), language="en")
        assert answer.text == "The capital"
