"""Send one request and measure its stream."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from bench.load.http import EventParser, HTTPFailure, Response, Server
from bench.load.prompts import Planned
from bench.load.records import Record

TEXTS = ("content", "reasoning_content", "reasoning")
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and the fields of every request to it besides the prompt.

    ignore_eos: outputs get their full length (vLLM, llama.cpp and Headrace know the field).
    extra: more fields of the body.
    """

    server: Server
    model: str
    endpoint: str
    timeout_s: float = 600.0
    ignore_eos: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    def body(self, planned: Planned) -> bytes:
        """Return the body of a request."""
        fields = {
            "model": self.model,
            **planned.prompt,
            "max_tokens": planned.output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            **({"ignore_eos": True} if self.ignore_eos else {}),
            **self.extra,
        }
        return json.dumps(fields).encode()


class StreamError(Exception):
    """The server answered with an error or a malformed stream."""


async def first_model(server: Server) -> str:
    """Return the first of /v1/models. Raises StreamError if there is none."""
    async with server.request("GET", "/v1/models") as response:
        body = await response.read()
    try:
        return str(json.loads(body)["data"][0]["id"])
    except (ValueError, LookupError, TypeError) as error:
        raise StreamError(f"{server.url}/v1/models answers {response.status}, no model") from error


async def measure(target: Target, planned: Planned) -> Record:
    """Send a request; its result or its error is in the record."""
    body = target.body(planned)
    record = Record(started_s=time.perf_counter())
    try:
        async with (
            asyncio.timeout(target.timeout_s),
            target.server.request("POST", PATHS[target.endpoint], body) as response,
        ):
            await _read(response, record)
    except TimeoutError:
        record.error = f"no answer within {target.timeout_s:g} s"
    except StreamError as error:
        record.error = str(error)
    except (OSError, HTTPFailure) as error:
        record.error = f"{type(error).__name__}: {_reason(error)}"
    record.ended_s = time.perf_counter()
    record.prompt_tokens = record.prompt_tokens or planned.prompt_tokens
    record.output_tokens = record.output_tokens or len(record.chunk_times_s)
    return record


async def _read(response: Response, record: Record) -> None:
    if response.status != 200:
        raise StreamError(f"HTTP {response.status}: {_message(await response.read())}")
    events, done = EventParser(), False
    async for part in response.parts():
        now_s = time.perf_counter()
        for payload in events.feed(part):
            if payload == b"[DONE]":
                done = True
            else:
                _add_event(payload, record, now_s)
    if not done:
        raise StreamError("the stream ended without [DONE]")


def _add_event(payload: bytes, record: Record, now_s: float) -> None:
    """Add one event of the stream to the record."""
    try:
        event = json.loads(payload)
        if "error" in event:
            raise StreamError(f"error in the stream: {_message(payload)}")
        usage = event.get("usage")
        if usage:
            record.prompt_tokens = usage["prompt_tokens"]
            record.output_tokens = usage["completion_tokens"]
        choices = event.get("choices") or ()
        if any(map(_is_output, choices)):
            record.chunk_times_s.append(now_s)
        record.content_events += any(map(_has_text, choices))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise StreamError("malformed event in the stream") from error


def _is_output(choice: dict[str, Any]) -> bool:
    """Return whether a choice holds output, not only a role or a finish reason."""
    delta = choice.get("delta")
    if delta is None:
        return bool(choice.get("text")) or choice.get("finish_reason") is None
    if any(delta.get(name) for name in (*TEXTS, "tool_calls")):
        return True
    return "role" not in delta and choice.get("finish_reason") is None


def _has_text(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    return bool(choice.get("text") if delta is None else any(delta.get(name) for name in TEXTS))


def _message(body: bytes) -> str:
    """Return the message of an error in OpenAI's format, or the start of the body, shortened."""
    try:
        value = json.loads(body)
        error = value.get("error", value)
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        text = body.decode(errors="replace")
    return " ".join(text.split())[:200]


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
