"""The end of the way that all requests for text go: from a generation to a response."""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from quart import Response

from frontend.errors import BadRequest
from frontend.generation.run import Collected, Generation, collect
from frontend.middleware.errors import json_response
from frontend.schemas.generation import GenerationRequest
from frontend.streaming import Chunks, stream_response


class Answer(Chunks, Protocol):
    """An API's way to write an answer, as a stream or in one piece."""

    def whole(self, texts: Sequence[Collected]) -> dict[str, Any]: ...


def check_stream(request: GenerationRequest) -> None:
    """BadRequest if the request asks for what only the other kind of answer has."""
    if request.stream_options is not None and not request.stream:
        raise BadRequest("stream_options needs stream to be true.", "stream_options")
    if request.prompt_logprobs is not None and request.stream:
        raise BadRequest("prompt_logprobs cannot be streamed.", "prompt_logprobs")


async def respond(
    request: GenerationRequest, generation: Generation, answer: Answer, has_logprobs: bool
) -> Response:
    """The answer as the request wants it. Log probabilities can be many: a whole answer that has
    them is written in a thread."""
    if request.stream:
        return await stream_response(generation, answer)
    texts = await collect(generation)

    def written() -> Response:
        return json_response(answer.whole(texts))

    if has_logprobs or request.prompt_logprobs is not None:
        return await asyncio.to_thread(written)
    return written()
