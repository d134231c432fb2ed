"""Segments, words and subtitles: their times in the recording, whatever windows it was cut into."""

import re
from array import array
from collections.abc import Sequence
from typing import Any

import pytest

from headrace.frontend.speech.segments import Segment
from headrace.frontend.speech.subtitles import srt, vtt
from headrace.frontend.speech.words import words_of
from headrace.protocol.to_worker import Generate
from tests.frontend.fake_pool import FakePool
from tests.frontend.speech.conftest import MakeClient, form, multipart
from tests.frontend.speech.models import (
    FRAMES,
    MEL_BINS,
    PATH,
    FakeRecordings,
    Part,
    first_frame,
    speech_text,
)
from tests.frontend.speech.test_transcriptions import body_of

VERBOSE = {"language": "en", "response_format": "verbose_json"}
TIME = r"(?:(\d\d):)?(\d\d):(\d\d)[.,](\d\d\d)"


def scripted(*windows: list[Part]) -> Any:
    def script(window: int, request: Generate) -> list[Part]:
        return windows[window]

    return script


async def segments_of(make_client: MakeClient, *windows: list[Part]) -> list[dict[str, Any]]:
    body = await body_of(make_client(scripted(*windows)), **VERBOSE)
    segments: list[dict[str, Any]] = body["segments"]
    assert [each["id"] for each in segments] == list(range(len(segments)))
    return segments


def times(segments: list[dict[str, Any]]) -> list[tuple[float, float, str]]:
    return [(each["start"], each["end"], each["text"]) for each in segments]


async def test_segments_of_all_windows(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = [(0.0, 20.0), (21.5, 10.0)]
    segments = await segments_of(
        make_client,
        [0.0, " What is", 2.5, 3.0, " the answer?", 19.0],
        [0.5, " Paris.", 4.0],
    )
    assert times(segments) == [
        (0.0, 2.5, " What is"),
        (3.0, 19.0, " the answer?"),
        (22.0, 25.5, " Paris."),
    ]
    assert [each["seek"] for each in segments] == [0, 0, 2150]
    assert segments[0]["no_speech_prob"] == 0.01
    assert segments[0]["avg_logprob"] == pytest.approx(-0.25)
    assert segments[2]["tokens"][0] == 25 + speech_text().info.speech.tokens.first_timestamp  # type: ignore[union-attr]
    for request in pool.requests:
        assert request.audio is not None
        assert request.audio.timestamps is not None
        assert request.audio.timestamps.max_initial == 50
        assert len(request.prompt_token_ids) == 3  # without the token that rules times out


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([" Paris."], [(0.0, 8.0, " Paris.")]),  # no times at all
        ([1.0, " Paris."], [(1.0, 8.0, " Paris.")]),  # cut before its end
        ([1.0, " Paris.", 30.0], [(1.0, 8.0, " Paris.")]),  # beyond the window
        ([1.0, " Hello", 2.0, 2.0, " Paris."], [(1.0, 2.0, " Hello"), (2.0, 8.0, " Paris.")]),
        ([1.0, 2.0, 2.0, " Paris.", 3.0], [(2.0, 3.0, " Paris.")]),  # an empty one
        ([5.0, " Hello", 6.0, 1.0, " Paris.", 2.0], [(5.0, 6.0, " Hello"), (6.0, 6.0, " Paris.")]),
        ([9.5, " Paris.", 9.9], [(8.0, 8.0, " Paris.")]),
        ([], []),
    ],
)
async def test_odd_times(
    make_client: MakeClient, recordings: FakeRecordings, written: list[Part], expected: Any
) -> None:
    recordings.windows = [(0.0, 8.0)]
    assert times(await segments_of(make_client, written)) == expected


async def test_what_is_left_of_a_window_is_transcribed(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = [(0.0, 8.0), (20.0, 8.0)]
    written: dict[tuple[int, int], list[Part]] = {
        (0, 0): [0.0, " What is", 2.5, 2.5],  # a segment begins that is not finished
        (0, 250): [0.5, " the", 1.0, 1.0],
        (0, 350): [0.0, " answer?", 1.0],
        (1, 0): [0.0, " Paris.", 7.9, 7.9],  # too little is left
    }

    def script(window: int, request: Generate) -> list[Part]:
        return written[window, first_frame(request)]

    fields: dict[str, Any] = {**VERBOSE, "temperature": 1, "seed": 3}
    body = await body_of(make_client(script), **fields)
    assert body["text"] == "What is the answer? Paris."
    assert times(body["segments"]) == [
        (0.0, 2.5, " What is"),
        (3.0, 3.5, " the"),
        (3.5, 4.5, " answer?"),
        (20.0, 27.9, " Paris."),
    ]
    assert len({request.sampling.seed for request in pool.requests}) == 4
    audio = next(
        request.audio for request in pool.requests if first_frame(request) == 250 and request.audio
    )
    features = array("f", audio.features)
    assert len(features) == MEL_BINS * FRAMES
    row = features[-FRAMES:]
    assert list(row[: FRAMES - 250]) == [frame / FRAMES for frame in range(250, FRAMES)]
    loudest = (FRAMES - 1) / FRAMES
    assert set(row[FRAMES - 250 :]) == {loudest - 2}  # silence, as far below it as can be


async def test_a_model_that_never_ends_a_window(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = [(0.0, 10.0)]
    client = make_client(scripted([0.0, " What", 0.5, 0.5]))
    await body_of(client, **VERBOSE)
    assert len(pool.requests) == 8


async def test_text_of_a_verbose_answer(
    make_client: MakeClient, recordings: FakeRecordings
) -> None:
    recordings.windows = [(0.0, 8.0), (9.0, 8.0)]
    client = make_client(scripted([0.0, " What is", 1.0, 1.0, " the", 2.0], [0.0, " answer?", 1.0]))
    body = await body_of(client, **VERBOSE)
    assert body["text"] == "What is the answer?"
    assert (body["task"], body["language"], body["duration"]) == ("transcribe", "english", 17.0)
    assert body["usage"] == {"type": "duration", "seconds": 17}


async def test_words(make_client: MakeClient, pool: FakePool, recordings: FakeRecordings) -> None:
    recordings.windows = [(0.0, 20.0), (30.0, 20.0)]
    client = make_client(scripted([0.0, " What is", 5.0], [0.0, " Paris.", 2.0]), spoken_s=0.5)
    body = await body_of(client, **VERBOSE, **{"timestamp_granularities[]": "word"})
    assert "segments" not in body
    text = speech_text()
    counts = [len(text.backend.encode(word).ids) for word in (" What", " is", " Paris.")]
    assert [word["word"] for word in body["words"]] == ["What", "is", "Paris."]
    first, second, third = body["words"]
    assert (first["start"], first["end"]) == (0.0, 0.5 * counts[0])
    assert (second["start"], second["end"]) == (0.5 * counts[0], 0.5 * (counts[0] + counts[1]))
    assert third["start"] == 30.0
    aligned = [request for request in pool.requests if request.audio and request.audio.alignment]
    tokens = text.info.speech.tokens  # type: ignore[union-attr]
    assert len(aligned) == 2
    prompt, audio = aligned[0].prompt_token_ids, aligned[0].audio
    assert prompt[3] == tokens.no_timestamps
    assert prompt[-1] == tokens.end
    assert all(each < tokens.end for each in prompt[4:-1])  # no times among them
    assert audio is not None
    assert audio.alignment is not None
    assert (audio.alignment.first, audio.alignment.frames) == (4, 1000)
    assert aligned[0].sampling.max_tokens == 1


async def test_words_and_segments(make_client: MakeClient) -> None:
    client = make_client(scripted([0.0, " Paris.", 2.0]))
    granularity = "timestamp_granularities[]"
    fields = [*VERBOSE.items(), (granularity, "segment"), (granularity, "word")]
    response = await client.post(PATH, **multipart(fields))
    body = await response.get_json()
    assert response.status_code == 200, body
    assert body["words"]
    assert body["segments"]


def words(
    pieces: Sequence[str | bytes], language: str = "en", lengths: Any = None
) -> list[tuple[Any, ...]]:
    """The words of tokens with these texts, each spoken for a moment unless `lengths` say more."""
    starts = [0.0]
    for number in range(len(pieces)):
        starts.append(starts[-1] + (lengths[number] if lengths else 0.125))
    data = [piece if isinstance(piece, bytes) else piece.encode() for piece in pieces]

    def decode(ids: Any) -> str:
        return b"".join(data[each] for each in ids).decode(errors="replace")

    found = words_of(range(len(pieces)), starts, language, decode, 0.0, 100.0)
    return [(word.text, word.start_s, word.end_s) for word in found]


def test_tokens_are_joined_to_words() -> None:
    assert words([" par", "is", ",", " he", " said"]) == [
        ("paris,", 0.125, 0.375),  # no longer than twice the median
        ("he", 0.375, 0.5),
        ("said", 0.5, 0.625),
    ]
    assert [
        word[0] for word in words([" “", "Hello", "”", " o", "'", "clock", " (", "ok", ")."])
    ] == [
        "“Hello”",
        "o'clock",
        "(ok).",
    ]


def test_characters_of_several_tokens() -> None:
    sound = "é".encode()
    assert words([" a", " caf", sound[:1], sound[1:], " b"]) == [
        ("a", 0.0, 0.125),
        ("café", 0.125, 0.5),
        ("b", 0.5, 0.625),
    ]
    hello = "你好".encode()
    pieces = [hello[:2], hello[2:3], hello[3:], "。".encode()]
    assert words(pieces, "zh") == [("你", 0.0, 0.25), ("好。", 0.25, 0.5)]
    assert [word[0] for word in words(["你", "好"], "en")] == ["你好"]


def test_pauses_beside_sentences_are_no_part_of_words() -> None:
    lengths = [9.0, 0.4, 0.4, 9.0]
    found = words([" The", " cap", " is", " Paris."], lengths=lengths)
    assert found[0] == ("The", pytest.approx(9.0 - 1.4), 9.0)
    assert found[-1] == ("Paris.", 9.8, pytest.approx(9.8 + 1.4))


def read_subtitles(text: str) -> list[tuple[float, float, str]]:
    found = []
    for block in text.strip().split("\n\n"):
        match = re.search(f"^{TIME} --> {TIME}\n(.+)$", block, re.MULTILINE)
        if match is None:
            assert block == "WEBVTT"
            continue
        numbers = [int(each or 0) for each in match.groups()[:8]]
        start, end = (
            hours * 3600 + minutes * 60 + seconds + thousandths / 1000
            for hours, minutes, seconds, thousandths in (numbers[:4], numbers[4:])
        )
        found.append((start, end, match[9]))
    return found


@pytest.mark.parametrize(
    ("shape", "kind"), [("srt", "text/plain; charset=utf-8"), ("vtt", "text/vtt; charset=utf-8")]
)
async def test_subtitles(
    make_client: MakeClient, recordings: FakeRecordings, shape: str, kind: str
) -> None:
    recordings.windows = [(0.0, 20.0), (3599.0, 20.0)]
    client = make_client(scripted([0.0, " What is", 2.5], [0.5, " Paris.", 4.02]))
    response = await client.post(PATH, **form(language="en", response_format=shape))
    assert response.status_code == 200
    assert response.content_type == kind
    text = await response.get_data(as_text=True)
    assert read_subtitles(text) == [(0.0, 2.5, "What is"), (3599.5, 3603.02, "Paris.")]
    assert text.startswith("WEBVTT\n\n00:00.000 --> " if shape == "vtt" else "1\n00:00:00,000 --> ")


def test_texts_do_not_break_subtitles() -> None:
    odd = Segment(0.0, 1.9996, " a --> b\n\n2 <i> & c", (), None)  # type: ignore[arg-type]
    assert read_subtitles(srt([odd])) == [(0.0, 2.0, "a -> b 2 <i> & c")]
    assert read_subtitles(vtt([odd])) == [
        (0.0, 2.0, "a -&gt; b 2 &lt;i> &amp; c".replace("&gt;", ">"))
    ]
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n\n"
