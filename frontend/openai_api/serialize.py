"""The end of the way that all requests for text go: from a generation to a response."""

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
    """An API's way to write an answer, as a stream or in one piece."""

    def full_body(self, texts: Sequence[CollectedChoice]) -> dict[str, Any]: ...


def check_stream(request: GenerationRequest) -> None:
    """BadRequest if the request asks for what only the other kind of answer has."""
    if request.stream_options is not None and not request.stream:
        raise BadRequest("stream_options needs stream to be true.", "stream_options")
    if request.prompt_logprobs is not None and request.stream:
        raise BadRequest("prompt_logprobs cannot be streamed.", "prompt_logprobs")


async def respond(
    request: GenerationRequest, generation: Generation, answer: Serializer, *, in_thread: bool
) -> Response:
    """The answer as the request wants it. in_thread: see `written`."""
    if request.stream:
        return await stream_response(generation, answer)
    texts = await collect(generation)
    return await serialize_response(lambda: answer.full_body(texts), in_thread=in_thread)


async def serialize_response(body: Callable[[], dict[str, Any]], *, in_thread: bool) -> Response:
    """A body as a response. in_thread: it is large, and other requests are to go on meanwhile."""

    def write() -> Response:
        return json_response(body())

    return await asyncio.to_thread(write) if in_thread else write()
