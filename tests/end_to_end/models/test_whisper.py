"""Whisper base over real processes: people's recordings, a dying worker, sleep, translation."""

import re
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from tests.end_to_end.servers import Server
from tests.speech_models import SPEECH

ENGLISH = sorted(SPEECH.glob("*.opus"))
TEXTS = {path: path.with_suffix(".txt").read_text() for path in ENGLISH}


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("-", " ")).split()


def wrong_words(expected: list[str], found: list[str]) -> int:
    """Words to insert, delete or replace."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(expected, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


@pytest.fixture(scope="module")
def server(whisper_base: Path, cache_dir: Path) -> Iterator[Server]:
    model = ["--model", str(whisper_base), "--served-model-name", "whisper-1"]
    flags = ["--dtype", "float32", "--frontends", "2", "--workers", "2", "--threads", "1"]
    started = Server([*model, *flags, "--enable-admin"], cache_dir)
    yield started
    assert started.stop() == 0


def transcribe(server: Server, path: Path, **fields: Any) -> httpx.Response:
    """Send a recording on a connection of its own."""
    route = fields.pop("route", "transcriptions")
    with server.new_client() as client:
        return client.post(
            f"/v1/audio/{route}", data=fields, files={"file": (path.name, path.read_bytes())}
        )


def text_of(server: Server, path: Path, **fields: Any) -> str:
    answer = transcribe(server, path, **fields)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["text"]
    return found


def test_recordings_have_their_texts(server: Server) -> None:
    expected, wrong = 0, 0
    for path in ENGLISH:
        wanted = words(TEXTS[path])
        wrong += wrong_words(wanted, words(text_of(server, path)))
        expected += len(wanted)
    assert wrong / expected < 0.05


def test_the_text_is_that_of_transformers(server: Server, whisper_base: Path) -> None:
    import soundfile

    path = SPEECH / "kennedy.opus"
    samples, rate = soundfile.read(path, dtype="float32")
    processor: Any = WhisperProcessor.from_pretrained(whisper_base)
    model: Any = WhisperForConditionalGeneration.from_pretrained(whisper_base, dtype=torch.float32)
    features = processor(samples, sampling_rate=rate, return_tensors="pt").input_features
    with torch.inference_mode():
        ids = model.generate(features, language="en", task="transcribe")
    (wanted,) = processor.batch_decode(ids, skip_special_tokens=True)
    assert text_of(server, path, language="en") == wanted.strip()


def test_sixteen_recordings_while_a_worker_dies(server: Server) -> None:
    paths = [ENGLISH[number % len(ENGLISH)] for number in range(16)]
    alone = {path: text_of(server, path) for path in ENGLISH}
    for _ in range(5):  # until the worker that is killed has requests
        with ThreadPoolExecutor(len(paths)) as threads:
            found = [threads.submit(text_of, server, path) for path in paths]
            wait(found, return_when=FIRST_COMPLETED)
            server.children("headrace.workers.main")[0].kill()
            assert [each.result() for each in found] == [alone[path] for path in paths]
        if server.metric("headrace:request_replays_total"):
            return
    raise AssertionError("no request was with the worker that was killed")


def test_a_sleeping_pool_wakes_for_a_recording(server: Server) -> None:
    path = SPEECH / "austen-880.opus"
    before = text_of(server, path)
    for level in (1, 2):
        assert server.client.post(f"/sleep?level={level}").status_code == 200
        assert text_of(server, path) == before


@pytest.mark.parametrize(("code", "name"), [("de", "german"), ("fr", "french")])
def test_other_languages(server: Server, code: str, name: str) -> None:
    path = SPEECH / "foreign" / f"{code}.opus"
    told = transcribe(server, path, response_format="verbose_json").json()
    assert told["language"] == name
    english = set(words(path.with_suffix(".english.txt").read_text()))
    translated = set(words(text_of(server, path, route="translations")))
    assert len(english & translated) / len(english) > 0.5


def test_words_and_segments_follow_the_speech(server: Server) -> None:
    path = SPEECH / "kennedy.opus"
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        told = client.audio.transcriptions.create(
            model="whisper-1", file=path, timestamp_granularities=["word", "segment"],
            response_format="verbose_json", language="en",
        )  # fmt: skip
    found = told.words or []
    assert [each.word.strip(" ,.").lower() for each in found][:3] == ["and", "so", "my"]
    times = [time for each in found for time in (each.start, each.end)]
    assert times == sorted(times)
    assert 0 <= times[0] < 1.0
    assert 9.0 < times[-1] <= 11.0
    segments = told.segments or []
    assert segments[0].start < 1.0
    assert all(each.start < each.end for each in segments)


def test_a_stream_is_the_text_in_pieces(server: Server) -> None:
    path = SPEECH / "austen-890.opus"
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        events = list(
            client.audio.transcriptions.create(
                model="whisper-1", file=path, stream=True, language="en"
            )
        )
    pieces = [event.delta for event in events if event.type == "transcript.text.delta"]
    (done,) = [event for event in events if event.type == "transcript.text.done"]
    assert len(pieces) > 3
    assert "".join(pieces).strip() == done.text == text_of(server, path, language="en")
