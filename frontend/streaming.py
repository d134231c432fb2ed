"""Server-sent events: the chunks of a generation, its end, or an error.

A stream that has begun ends with either its last chunk or one error event, and then, in OpenAI's
APIs, [DONE].
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol

from quart import Response

from headrace.frontend.errors import ApiError
from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.generation.generation import Event, Generation
from headrace.frontend.middleware.errors import api_error
from headrace.frontend.openai_api.common import encode_json

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

# Events that are sent in one piece, at most: other streams must get their turn.
MAX_EVENTS = 64


class Chunks(Protocol):
    """An API's format of a stream; each method returns the text of whole events, or ""."""

    def first(self, choices: Sequence[Choice]) -> str: ...

    def chunk(self, choices: Sequence[Choice], choice: Choice, delta: Delta) -> str: ...

    def last(self, choices: Sequence[Choice]) -> str: ...


class Ending(NamedTuple):
    """The end of a stream. error: returns the event of a failure. done: ends every stream."""

    error: Callable[[ApiError], str]
    done: str


OPENAI = Ending(lambda error: f"data: {encode_json(error.body())}\n\n", "data: [DONE]\n\n")


async def stream_response(
    generation: Generation, chunks: Chunks, ending: Ending = OPENAI
) -> Response:
    """Return the answer as a stream of events.

    Waits for the first output, so that a request that cannot run gets a proper status. Raises what
    the generation raises.
    """
    try:
        event = await generation.__anext__()
    except Exception:
        generation.fail()
        raise
    response = Response(
        _events(generation, chunks, ending, event),
        headers=HEADERS,
        content_type="text/event-stream; charset=utf-8",
    )
    response.timeout = None  # a long output may take any time
    return response


async def _events(
    generation: Generation, chunks: Chunks, ending: Ending, event: Event
) -> AsyncIterator[bytes]:
    """Yield the stream, in pieces of all events that are there when one is sent: single events
    while the client and this process keep up, more when they do not."""
    choices = generation.choices
    piece: list[str] = []
    try:
        piece += [chunks.first(choices), chunks.chunk(choices, *event)]
        while not generation.ended:
            now = generation.ready() if len(piece) < MAX_EVENTS else None
            if now is None:
                if text := "".join(piece):
                    yield text.encode()
                piece = []
                now = await anext(generation)
            piece.append(chunks.chunk(choices, *now))
        piece.append(chunks.last(choices))
    except Exception as error:
        generation.fail()
        piece.append(ending.error(api_error(error)))
    piece.append(ending.done)
    yield "".join(piece).encode()
