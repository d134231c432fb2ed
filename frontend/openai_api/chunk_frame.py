"""Encode once what all chunks of a stream share.

A chunk is assembled from these parts; for each token only its text is encoded.
"""

from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Any

from headrace.frontend.generation.choice import Choice
from headrace.frontend.openai_api.common import ResponseHead, encode_json, request_metrics
from headrace.frontend.schemas.generation import GenerationRequest

__all__ = ["ChunkFrame", "encode_text"]

encode_text: Callable[[str], str] = encode_basestring  # non-ASCII text as it is


class ChunkFrame:
    """The JSON around the choices of every chunk of a stream.

    start: the beginning of each chunk, up to its choices.
    object_type: the field `object`, such as "chat.completion.chunk".
    usage: returns the usage of choices so far.
    """

    def __init__(
        self,
        head: ResponseHead,
        object_type: str,
        request: GenerationRequest,
        usage: Callable[[Sequence[Choice]], dict[str, Any]],
    ) -> None:
        start = {
            "id": head.answer_id,
            "object": object_type,
            "created": head.created,
            "model": head.model,
        }
        self.start = f'data: {encode_json(start)[:-1]},"choices":['
        self.usage_in_chunks = request.usage_in_chunks
        self._usage_in_stream = request.usage_in_stream
        self._fingerprint = f',"system_fingerprint":{encode_json(head.fingerprint)}'
        self._usage = usage

    def end(self, choices: Sequence[Choice], ended: bool = False) -> str:
        """Return what follows the choices of a chunk. ended: it is the last of its choice."""
        so_far = f',"usage":{encode_json(self._usage(choices))}' if self.usage_in_chunks else ""
        fingerprint = self._fingerprint if ended and not self._usage_in_stream else ""
        return f"{so_far}{fingerprint}}}\n\n"

    def last(self, choices: Sequence[Choice]) -> str:
        """Return the chunk after all choices: the usage, if the request asks for it."""
        if not self._usage_in_stream:
            return ""
        counted = encode_json(self._usage(choices))
        times = request_metrics(choices)
        more = f",{encode_json(times)[1:-1]}" if times else ""
        return f'{self.start}],"usage":{counted}{self._fingerprint}{more}}}\n\n'
