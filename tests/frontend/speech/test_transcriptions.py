"""/v1/audio/transcriptions and /v1/audio/translations: fields, forms of answers, prompts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.pool.interface import PoolBusy
from headrace.protocol.to_frontend import Logprobs, Output
from headrace.protocol.to_worker import Generate
from tests.frontend.fake_pool import FakePool
from tests.frontend.speech.conftest import MakeClient, form
from tests.frontend.speech.models import PATH, TRANSLATIONS, FakeRecordings, speech_text


async def body_of(client: Client, path: str = PATH, **fields: Any) -> dict[str, Any]:
    response = await client.post(path, **form(**fields))
    body: dict[str, Any] = await response.get_json()
    assert response.status_code == 200, body
    return body


async def refused(client: Client, path: str = PATH, **fields: Any) -> tuple[int, str | None]:
    """The status of an error, and the field that it names."""
    response = await client.post(path, **form(**fields))
    body = await response.get_json()
    assert "error" in body, body
    return response.status_code, body["error"]["param"]


async def test_json(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings, tmp_path: Path
) -> None:
    recordings.windows = [(0.0, 3.2)]
    body = await body_of(make_client(), model="smol", language="en", data=b"sound")
    assert body == {
        "text": "The capital of France.",
        "usage": {"type": "duration", "seconds": 4},
    }
    assert recordings.files == [b"sound"]
    assert recordings.formats[0].mel_bins == 80
    assert list((tmp_path / "audio").iterdir()) == []  # what was received is removed
    (request,) = pool.requests
    tokens = speech_text().info.speech.tokens  # type: ignore[union-attr]
    assert request.prompt_token_ids == (
        tokens.start,
        tokens.languages["en"],
        tokens.transcribe,
        tokens.no_timestamps,
    )
    assert request.audio is not None
    assert request.audio.timestamps is None
    assert request.audio.no_speech_id == tokens.no_speech
    assert request.audio.no_speech_position == 0
    assert request.audio.suppressed_ids
    assert request.sampling.temperature == 0
    assert request.sampling.max_tokens == 448 - 4
    assert request.sampling.eos_token_ids == (tokens.end,)


async def test_windows_are_joined_in_order(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = [(0.0, 20.0), (21.0, 20.0), (45.0, 5.0)]
    client = make_client([" What is", " the answer?", " Paris."])
    body = await body_of(client, language="en")
    assert body["text"] == "What is the answer? Paris."
    assert body["usage"]["seconds"] == 50
    digests = {request.audio.digest for request in pool.requests if request.audio}
    assert len(digests) == 3


async def test_languages_without_spaces_are_joined_without(
    make_client: MakeClient, recordings: FakeRecordings
) -> None:
    recordings.windows = [(0.0, 20.0), (21.0, 20.0)]
    client = make_client(["你好", "你们"])
    assert (await body_of(client, language="zh"))["text"] == "你好你们"
    # Their translation is English.
    assert (await body_of(client, TRANSLATIONS, language="zh"))["text"] == "你好 你们"


async def test_language_is_detected_by_the_first_window(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = [(0.0, 20.0), (21.0, 20.0)]
    client = make_client([" The", " answer"], language="de")
    body = await body_of(client, response_format="verbose_json")
    assert body["language"] == "german"
    tokens = speech_text().info.speech.tokens  # type: ignore[union-attr]
    first, *others = pool.requests
    assert first.prompt_token_ids == (tokens.start,)
    assert set(first.sampling.allowed_token_ids) == set(tokens.languages.values())
    assert first.sampling.max_tokens == 1
    assert [request.prompt_token_ids[1] for request in others] == [tokens.languages["de"]] * 2
    audio = [request.audio for request in pool.requests if request.audio is not None]
    assert audio[0].digest == audio[1].digest  # its window's encoder runs once


@pytest.mark.parametrize("word", ["de", "German", "german"])
async def test_language_by_code_or_name(make_client: MakeClient, pool: FakePool, word: str) -> None:
    await body_of(make_client(), language=word)
    tokens = speech_text().info.speech.tokens  # type: ignore[union-attr]
    assert pool.requests[0].prompt_token_ids[1] == tokens.languages["de"]


async def test_translation(make_client: MakeClient, pool: FakePool) -> None:
    body = await body_of(make_client(), TRANSLATIONS, language="de", response_format="verbose_json")
    assert (body["task"], body["language"]) == ("translate", "german")
    tokens = speech_text().info.speech.tokens  # type: ignore[union-attr]
    assert pool.requests[0].prompt_token_ids[1:3] == (tokens.languages["de"], tokens.translate)
    assert await body_of(make_client(), TRANSLATIONS, language="de", to_language="en")


async def test_english_only(make_client: MakeClient, pool: FakePool) -> None:
    client = make_client(is_multilingual=False)
    body = await body_of(client, language="en", response_format="verbose_json")
    assert body["language"] == "english"
    await body_of(client)  # nothing is detected
    tokens = speech_text(is_multilingual=False).info.speech.tokens  # type: ignore[union-attr]
    assert [request.prompt_token_ids for request in pool.requests] == [
        (tokens.start,),
        (tokens.start, tokens.no_timestamps),
    ]
    assert await refused(client, language="de") == (400, "language")
    assert await refused(client, TRANSLATIONS) == (400, "model")


async def test_prompt_and_hotwords(make_client: MakeClient, pool: FakePool) -> None:
    client, text = make_client(), speech_text()
    info = text.info.speech
    assert info is not None

    def ids(words: str) -> list[int]:
        return text.backend.encode(words, add_special_tokens=False).ids

    await body_of(client, language="en", prompt=" Hello <|translate|>", hotwords="Paris")
    start = pool.requests[0].prompt_token_ids.index(info.tokens.start)
    previous = pool.requests[0].prompt_token_ids[:start]
    assert previous == (info.tokens.previous, *ids(" Paris"), *ids(" Hello "))
    assert pool.requests[0].audio is not None
    assert pool.requests[0].audio.no_speech_position == start
    await body_of(client, language="en", prompt="The capital " * 200)
    longest = pool.requests[1].prompt_token_ids
    assert len(longest) == 1 + 223 + 4  # half of the positions, less one
    assert pool.requests[1].sampling.max_tokens == 448 - len(longest)
    assert list(longest[1:224]) == ids(" " + ("The capital " * 200).strip())[-223:]
    await body_of(client, language="en", prompt="Hello " * 900, hotwords="Paris " * 900)
    assert len(pool.requests[2].prompt_token_ids) == 1 + 223 + 4


async def test_sampling_fields(make_client: MakeClient, pool: FakePool) -> None:
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "seed": 11,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "repetition_penalty": 1.25,
        "max_completion_tokens": 12,
        "priority": 3,
        "user": "ann",
    }
    await body_of(make_client(), language="en", **fields)
    request = pool.requests[0]
    sampling = request.sampling
    named = ("temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty")
    for name in (*named, "presence_penalty", "repetition_penalty"):
        assert getattr(sampling, name) == fields[name], name
    assert (sampling.max_tokens, request.priority, request.tenant) == (12, 3, "ann")


async def test_seeds_differ_by_window_and_not_by_run(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = [(0.0, 20.0), (21.0, 20.0)]
    client = make_client([" The", " answer"])
    for _ in range(2):
        await body_of(client, language="en", temperature=1, seed=5)
    seeds = [request.sampling.seed for request in pool.requests]
    assert seeds[:2] == seeds[2:]
    assert seeds[0] != seeds[1]


async def test_beam_search(make_client: MakeClient, pool: FakePool) -> None:
    text = speech_text()
    tokens = text.info.speech.tokens  # type: ignore[union-attr]
    client = make_client([" The capital of France."])
    written = [*text.backend.encode(" The capital of France.").ids, tokens.end]
    pool.reply = lambda request: written[len(request.output_token_ids) :] or [tokens.end]
    likeliest = pool.change

    def change(request: Generate, output: Output) -> Output:
        """The written token is the likeliest, another one less so."""
        (token_id,) = output.token_ids
        top = ((token_id, 7, 8, 9), (-0.1, -3.0, -4.0, -5.0))
        return replace(likeliest(request, output), logprobs=(Logprobs(token_id, -0.1, 1, *top),))

    pool.change = change
    fields: dict[str, Any] = {"use_beam_search": "true", "n": 2, "length_penalty": 0.5}
    body = await body_of(client, language="en", response_format="verbose_json", **fields)
    assert body["text"] == "The capital of France."
    assert body["segments"][0]["avg_logprob"] == pytest.approx(-0.1)
    prompts = {request.prompt_token_ids for request in pool.requests}
    assert len(prompts) == 1  # beams are outputs, not prompts
    assert max(len(request.output_token_ids) for request in pool.requests) >= len(written) - 1
    assert {request.sampling.logprobs for request in pool.requests} == {4}
    pool.requests.clear()
    body = await body_of(client, language="en", use_beam_search="true", n=2, length_penalty=1)
    assert body["text"] == "The capital of France."
    assert len(pool.requests) <= 2 * len(written)  # a longer text, up to 448 tokens, is not sought


async def test_text(make_client: MakeClient) -> None:
    response = await make_client().post(PATH, **form(language="en", response_format="text"))
    assert await response.get_data(as_text=True) == "The capital of France.\n"
    assert response.content_type == "text/plain; charset=utf-8"


async def test_logprobs(make_client: MakeClient) -> None:
    body = await body_of(make_client(), language="en", **{"include[]": "logprobs"})
    assert "".join(item["token"] for item in body["logprobs"]) == " The capital of France."
    assert bytes(body["logprobs"][0]["bytes"]).decode() == body["logprobs"][0]["token"]
    assert {item["logprob"] for item in body["logprobs"]} == {-0.25}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "xml"}, "body.response_format"),
        ({"language": "klingon"}, "language"),
        ({"language": "fr"}, "language"),  # a language, but none of this model's
        ({"to_language": "klingon"}, "to_language"),
        ({"language": "de", "to_language": "en"}, "to_language"),
        ({"temperature": "hot"}, "body.temperature"),
        ({"temperature": "nan"}, "body.temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"stream": "perhaps"}, "body.stream"),
        ({"stream_include_usage": "true"}, "stream_include_usage"),
        ({"stream": "true", "response_format": "verbose_json"}, "stream"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]"),
        (
            {"timestamp_granularities[]": "page", "response_format": "verbose_json"},
            "body.timestamp_granularities[].0",
        ),
        ({"include[]": "sources"}, "body.include[].0"),
        ({"use_beam_search": "true", "stream": "true"}, "use_beam_search"),
        ({"n": 3}, "n"),
        ({"n": 33, "use_beam_search": "true"}, "n"),
        ({"length_penalty": 11}, "length_penalty"),
        ({"vllm_xargs": "{"}, "body.vllm_xargs"),
        ({"vllm_xargs": '{"a": 1}'}, "vllm_xargs"),
        ({"no_speech_threshold": 2}, "no_speech_threshold"),
        ({"compression_ratio_threshold": 0}, "compression_ratio_threshold"),
        ({"chunking_strategy": "server_vad"}, "chunking_strategy"),
        ({"prompt": "x" * 16_385}, "prompt"),
    ],
)
async def test_bad_values(make_client: MakeClient, fields: dict[str, Any], param: str) -> None:
    assert await refused(make_client(), **fields) == (400, param)


NUMBERS = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "priority", "n"),
    *("presence_penalty", "repetition_penalty", "max_completion_tokens"),
    *("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold"),
)


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e999", "9" * 5000, "٣", "0x10"])
async def test_odd_numbers(make_client: MakeClient, pool: FakePool, value: str) -> None:
    client = make_client()
    for name in NUMBERS:
        status, named = await refused(client, **{name: value})
        assert status == 400
        assert named is not None
        assert named.removeprefix("body.") == name
    assert pool.requests == []


async def test_empty_fields_are_as_missing_ones(make_client: MakeClient, pool: FakePool) -> None:
    await body_of(make_client(), language="", temperature="", prompt="", stream="")
    assert len(pool.requests) == 2  # the language is detected


async def test_unknown_fields_are_named(make_client: MakeClient) -> None:
    response = await make_client().post(PATH, **form(language="en", colour="blue"))
    assert response.status_code == 200
    assert "colour" in str(response.headers)
    # So clients send objects and lists that are no fields here.
    odd = {"language": "en", "chunking_strategy[type]": "server_vad", "voices[]": "a"}
    named = (await make_client().post(PATH, **form(**odd))).headers["X-Headrace-Ignored-Fields"]
    assert named == "chunking_strategy[type], voices[]"
    strict = make_client(settings={"strict_fields": True})
    assert (await refused(strict, colour="blue"))[0] == 400


@pytest.mark.parametrize("reason", ["the file is empty", "the audio is longer than 9 s"])
async def test_files_that_cannot_be_decoded(
    make_client: MakeClient, recordings: FakeRecordings, reason: str
) -> None:
    recordings.error = reason
    response = await make_client().post(PATH, **form(language="en"))
    body = await response.get_json()
    assert response.status_code == 400
    assert body["error"]["param"] == "file"
    assert reason in body["error"]["message"]


async def test_empty_and_missing_and_large_files(make_client: MakeClient) -> None:
    client = make_client(settings={"max_audio_clip_filesize_mb": 0.001})
    assert await refused(client, data=b"") == (400, "file")
    assert await refused(client, data=b"x" * 2000) == (413, "file")
    assert await refused(client, data=b"x" * 400_000) == (413, "file")
    missing = await client.post(PATH, form={"model": "smol"}, files={})
    assert missing.status_code in (400, 415)
    plain = await client.post(PATH, json={"model": "smol", "file": "x"})
    assert plain.status_code == 415


async def test_silence_is_an_empty_text(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = []
    body = await body_of(make_client(), response_format="verbose_json")
    assert (body["text"], body["segments"], body["duration"]) == ("", [], 1.0)
    assert pool.requests == []


async def test_what_does_not_transcribe_says_so(make_client: MakeClient, client: Client) -> None:
    for path in (PATH, TRANSLATIONS):
        response = await client.post(path, **form(model="smol"))
        body = await response.get_json()
        assert (response.status_code, body["detail"]) == (404, "Not Found")
        assert "transcribe" in body["error"]["message"]
    speech = make_client()
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    for path, asked in (("/v1/chat/completions", chat), ("/v1/completions", {"prompt": "Hi"})):
        response = await speech.post(path, json={"model": "smol", **asked})
        body = await response.get_json()
        assert (response.status_code, body["detail"]) == (404, "Not Found")
        assert "transcription" in body["error"]["message"]


async def test_models_tell_their_task(make_client: MakeClient) -> None:
    body = await (await make_client().get("/v1/models")).get_json()
    assert "transcription" in str(body)


async def test_a_busy_pool(make_client: MakeClient, pool: FakePool) -> None:
    client = make_client()
    pool.busy = PoolBusy("full", 7.0)
    response = await client.post(PATH, **form(language="en"))
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "7"


async def test_a_failing_worker(make_client: MakeClient, pool: FakePool) -> None:
    client = make_client()
    pool.failure = RuntimeError("secret")
    response = await client.post(PATH, **form(language="en"))
    assert response.status_code == 500
    assert "secret" not in await response.get_data(as_text=True)


async def test_metrics(make_client: MakeClient, recordings: FakeRecordings) -> None:
    recordings.windows = [(0.0, 3.0), (4.0, 2.0)]
    client = make_client([" The", " answer"])
    before = await (await client.get("/metrics")).get_data(as_text=True)
    assert 'headrace:audio_transcribed_seconds_total{model_name="smol"} 0.0' in before
    await body_of(client, language="en")
    text = await (await client.get("/metrics")).get_data(as_text=True)
    assert 'headrace:audio_received_seconds_total{model_name="smol"} 5.0' in text
    assert 'headrace:audio_transcribed_seconds_total{model_name="smol"} 6.0' in text
    assert 'headrace:audio_real_time_factor_count{model_name="smol"} 1.0' in text


@pytest.mark.parametrize(
    "fields", [{"prompt": "x" * 300_000}, {f"field{number}": "x" for number in range(70)}]
)
async def test_too_large_fields_are_not_called_a_file(
    make_client: MakeClient, fields: dict[str, str]
) -> None:
    response = await make_client().post(PATH, **form(**fields))
    assert response.status_code == 413
    message = (await response.get_json())["error"]["message"]
    assert "fields" in message
    assert "file" not in message
