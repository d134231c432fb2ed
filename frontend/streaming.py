"""Server-sent events: the chunks of a generation, its end, and errors on the way.

A stream, once begun, ends with exactly one of two things: its last chunk, or one error event; and
then [DONE].
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from quart import Response

from frontend.answers.common import END_OF_STREAM, encode_json
from frontend.generation.choice import Choice, Delta
from frontend.generation.run import Event, Generation
from frontend.middleware.errors import api_error

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Chunks(Protocol):
    """An API's way to write a stream; each method gives the text of whole events, or ""."""

    def first(self, choices: Sequence[Choice]) -> str: ...

    def chunk(self, choices: Sequence[Choice], choice: Choice, delta: Delta) -> str: ...

    def last(self, choices: Sequence[Choice]) -> str: ...


async def stream_response(generation: Generation, chunks: Chunks) -> Response:
    """The answer as a stream of events.

    Waits for the first output, so that a request that cannot be run gets a real status; raises
    what the generation raises.
    """
    try:
        event = await generation.__anext__()
    except Exception:
        generation.fail()
        raise
    response = Response(
        _events(generation, chunks, event),
        headers=HEADERS,
        content_type="text/event-stream; charset=utf-8",
    )
    response.timeout = None  # a long text takes as long as it takes
    return response


async def _events(generation: Generation, chunks: Chunks, event: Event) -> AsyncIterator[bytes]:
    choices = generation.choices
    try:
        text = chunks.first(choices) + chunks.chunk(choices, *event)
        if text:
            yield text.encode()
        async for choice, delta in generation:
            text = chunks.chunk(choices, choice, delta)
            if text:
                yield text.encode()
        end = chunks.last(choices).encode()
    except Exception as error:
        generation.fail()
        end = f"data: {encode_json(api_error(error).body())}\n\n".encode()
    yield end + END_OF_STREAM
