"""Server-sent events: the chunks of a generation, its end, and errors on the way.

A stream, once begun, ends with exactly one of two things: its last chunk, or one error event; and
then, in OpenAI's APIs, [DONE].
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

# Events that are sent at once, at most: other streams are to have their turn.
MAX_EVENTS = 64


class Chunks(Protocol):
    """An API's way to write a stream; each method gives the text of whole events, or ""."""

    def first(self, choices: Sequence[Choice]) -> str: ...

    def chunk(self, choices: Sequence[Choice], choice: Choice, delta: Delta) -> str: ...

    def last(self, choices: Sequence[Choice]) -> str: ...


class Ending(NamedTuple):
    """error: the event that ends a stream that has failed. done: what follows every stream."""

    error: Callable[[ApiError], str]
    done: str


OPENAI = Ending(lambda error: f"data: {encode_json(error.body())}\n\n", "data: [DONE]\n\n")


async def stream_response(
    generation: Generation, chunks: Chunks, ending: Ending = OPENAI
) -> Response:
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
        _events(generation, chunks, ending, event),
        headers=HEADERS,
        content_type="text/event-stream; charset=utf-8",
    )
    response.timeout = None  # a long text takes as long as it takes
    return response


async def _events(
    generation: Generation, chunks: Chunks, ending: Ending, event: Event
) -> AsyncIterator[bytes]:
    """The stream, in pieces of all events that have come when one is sent: one by one while the
    client and this process keep up, more of them when they do not."""
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
