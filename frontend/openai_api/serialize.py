"""Turn a generation into an HTTP response, streamed or with a full body."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from quart import Response

from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.generation import CollectedChoice, Generation, collect
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.frontend.streaming import Chunks, stream_response


class Serializer(Chunks, Protocol):
    """Serializes one response of an API, as a stream or as a full body."""

    def full_body(self, outputs: Sequence[CollectedChoice]) -> dict[str, Any]: ...


def check_stream(request: GenerationRequest) -> None:
    """Check that the request's fields fit its `stream`. Raises BadRequest if not."""
    if request.stream_options is not None and not request.stream:
        raise BadRequest("stream_options needs stream to be true.", "stream_options")
    if request.prompt_logprobs is not None and request.stream:
        raise BadRequest("prompt_logprobs cannot be streamed.", "prompt_logprobs")


async def respond(
    request: GenerationRequest,
    generation: Generation,
    serializer: Serializer,
    *,
    in_thread: bool,
    keep_alive_s: float,
) -> Response:
    """Return the response, streamed if the request asks for it.

    in_thread: see `serialize_response`. keep_alive_s: see `stream_response`.
    """
    if request.stream:
        return await stream_response(generation, serializer, keep_alive_s=keep_alive_s)
    outputs = await collect(generation)
    return await serialize_response(lambda: serializer.full_body(outputs), in_thread=in_thread)


async def serialize_response(body: Callable[[], dict[str, Any]], *, in_thread: bool) -> Response:
    """Build a body and return it as a JSON response.

    in_thread: do it off the event loop, because the body is large.
    """

    def serialize() -> Response:
        return json_response(body())

    return await asyncio.to_thread(serialize) if in_thread else serialize()
