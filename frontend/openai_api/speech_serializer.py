"""Serialize the texts of recordings, in one piece or as streams.

An event of a stream has the fields of OpenAI's API (`type`, `delta`, `text`) and those of the
reference (`object`, `choices`), so that clients of either read it.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Any

from quart import Response

from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.errors import api_error, json_response
from headrace.frontend.openai_api.common import encode_json
from headrace.frontend.schemas.speech.forms import SpeechForm
from headrace.frontend.speech.answer_parts import (
    decode,
    duration_usage,
    logprob_items,
    segment_items,
    token_usage,
    word_items,
)
from headrace.frontend.speech.plan import language_name
from headrace.frontend.speech.recording import SpeechEvent
from headrace.frontend.speech.results import RecordingEnd, TextPiece, WindowResult
from headrace.frontend.speech.segments import Segment, segments_of
from headrace.frontend.speech.start_transcription import Transcription
from headrace.frontend.speech.subtitles import srt, vtt
from headrace.frontend.streaming import HEADERS, KEEP_ALIVE, OPENAI

PLAIN = "text/plain; charset=utf-8"
VTT = "text/vtt; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Collected:
    """The whole of a recording's events."""

    text: str
    results: list[WindowResult]
    end: RecordingEnd


async def answer_in_one_piece(transcription: Transcription, form: SpeechForm) -> Response:
    """Return the answer when the recording is transcribed."""
    found = await _collect(transcription)
    transcription.note_end(found.end.duration_s, found.text)
    plan = transcription.plan
    usage = duration_usage(found.end.duration_s)
    if form.response_format == "text":
        return Response(found.text + "\n", content_type=PLAIN)
    if form.response_format == "json":
        body: dict[str, Any] = {"text": found.text}
        if form.has_logprobs:
            tokens = [each for result in found.results for each in result.tokens]
            body["logprobs"] = logprob_items(plan, tokens)
        return json_response({**body, "usage": usage})
    segments = segments_of(found.results, plan.tokens, lambda ids: decode(plan, ids))
    if form.response_format == "srt":
        return Response(srt(segments), content_type=PLAIN)
    if form.response_format == "vtt":
        return Response(vtt(segments), content_type=VTT)
    return json_response({**_verbose(form, found, segments), "usage": usage})


async def _collect(transcription: Transcription) -> _Collected:
    pieces: list[str] = []
    results: list[WindowResult] = []
    async for event in transcription.recording.events():
        if isinstance(event, TextPiece):
            pieces.append(event.text)
        elif isinstance(event, WindowResult):
            results.append(event)
        else:
            return _Collected("".join(pieces).rstrip(), results, event)
    raise AssertionError("a recording ended without an end")


def _verbose(form: SpeechForm, found: _Collected, segments: list[Segment]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "task": form.task,
        "language": language_name(found.end.language),
        "duration": found.end.duration_s,
        "text": found.text,
    }
    if form.lists_segments:
        body["segments"] = segment_items(segments)
    if form.has_words:
        body["words"] = word_items(found.results)
    return body


async def answer_as_stream(transcription: Transcription, form: SpeechForm) -> Response:
    """Return the answer as a stream of events.

    Waits for the first text, so that a request that cannot run gets a proper status, but no longer
    than the first interval of silence. Raises what comes until then.
    """
    stream = SpeechStream(transcription, form)
    await stream.begin()
    response = Response(stream, headers=HEADERS, content_type="text/event-stream; charset=utf-8")
    response.timeout = None  # a long recording may take any time
    return response


class SpeechStream:
    """The body of a streamed answer: pieces of text in the order of the recording, and its end."""

    def __init__(self, transcription: Transcription, form: SpeechForm) -> None:
        self._transcription, self._form = transcription, form
        config = transcription.context.config
        self._keep_alive_s = config.sse_keep_alive_interval_s
        self._events = aiter(transcription.recording.events())
        self._next: asyncio.Task[SpeechEvent] | None = None
        self._text, self._first, self._has_ended = "", "", False
        self._logprobs: list[dict[str, Any]] = []
        self._frame = self._make_frame()
        serving = transcription.plan.model.group.serving
        self._has_usage = bool(form.stream_include_usage) or serving.enable_force_include_usage
        scope = request_scope.current_or_none()
        self._sent_at = time.monotonic() if scope is None else scope.started
        if scope is not None:
            scope.cleanups.append(self.stop)

    async def begin(self) -> None:
        """Wait for the first text, or the end of the first interval of silence."""
        while not self._first:
            self._first = await self._piece()

    def stop(self) -> None:
        """Stop waiting for more."""
        if self._next is not None:
            self._next.cancel()

    def __aiter__(self) -> "SpeechStream":
        return self

    async def __anext__(self) -> bytes:
        text, self._first = self._first, ""
        while not text:
            if self._has_ended:
                raise StopAsyncIteration
            try:
                text = await self._piece()
            except Exception as error:
                self._has_ended = True
                text = OPENAI.error(api_error(error)) + OPENAI.done
        self._sent_at = time.monotonic()
        return text.encode()

    async def _piece(self) -> str:
        """Return the next event, or the comment of a silent interval; "" if there is neither."""
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._events))
        left_s = None
        if self._keep_alive_s:
            left_s = max(0.0, self._sent_at + self._keep_alive_s - time.monotonic())
        await asyncio.wait({self._next}, timeout=left_s)
        if not self._next.done():
            return KEEP_ALIVE
        done, self._next = self._next, None
        event = done.result()
        if isinstance(event, TextPiece):
            return self._delta(event)
        return self._end(event) if isinstance(event, RecordingEnd) else ""

    def _make_frame(self) -> dict[str, Any]:
        kind = "transcription" if self._form.task == "transcribe" else "translation"
        prefix = "trsc" if self._form.task == "transcribe" else "trsl"
        answer_id = f"{prefix}-{self._form.request_id or secrets.token_hex(8)}"
        return {
            "id": request_scope.register_response_id(answer_id),
            "object": f"{kind}.chunk",
            "created": int(time.time()),
            "model": self._transcription.plan.model.name,
        }

    def _delta(self, piece: TextPiece) -> str:
        self._text += piece.text
        event: dict[str, Any] = {"type": "transcript.text.delta", "delta": piece.text}
        if self._form.has_logprobs:
            event["logprobs"] = logprob_items(self._transcription.plan, piece.tokens)
            self._logprobs += event["logprobs"]
        event |= {**self._frame, "choices": [{"delta": {"content": piece.text}}]}
        if self._has_usage and self._form.stream_continuous_usage_stats:
            event["usage"] = self._usage(0.0)
        return _event(event)

    def _end(self, end: RecordingEnd) -> str:
        self._has_ended = True
        self._transcription.note_end(end.duration_s, self._text)
        last = {"delta": {"content": ""}, "finish_reason": "stop"}
        finish = ""
        if self._has_usage:  # as in the reference, in a chunk of its own
            finish = _event(
                {"type": "transcript.text.delta", "delta": "", **self._frame, "choices": [last]}
            )
        done: dict[str, Any] = {
            "type": "transcript.text.done",
            "text": self._text.rstrip(),
            "usage": self._usage(end.duration_s),
            **self._frame,
            "choices": [] if self._has_usage else [last],
        }
        if self._form.has_logprobs:
            done["logprobs"] = self._logprobs
        return finish + _event(done) + OPENAI.done

    def _usage(self, duration_s: float) -> dict[str, Any]:
        return token_usage(self._transcription.requests.used, duration_s)


def _event(fields: dict[str, Any]) -> str:
    return f"data: {encode_json(fields)}\n\n"
