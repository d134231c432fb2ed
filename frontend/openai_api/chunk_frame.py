"""Encode once what all chunks of a stream share.

A chunk is assembled from these parts; for each token only its text is encoded.
"""

from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Any

from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.openai_api.common import ResponseHead, encode_json, request_metrics
from headrace.frontend.schemas.generation import GenerationRequest

__all__ = ["ChunkFrame", "encode_text", "own_fields"]

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
        """Return what follows the choices of a chunk.

        choices: whose tokens its usage counts. ended: it is the last of its choice.
        """
        so_far = f',"usage":{encode_json(self._usage(choices))}' if self.usage_in_chunks else ""
        fingerprint = self._fingerprint if ended and not self._usage_in_stream else ""
        return f"{so_far}{fingerprint}}}\n\n"

    def end_before_output(self, choices: Sequence[Choice]) -> str:
        """Return what follows the choices of a chunk that comes before any output is shown.

        It is made when the first output has come, whose tokens its usage must not count.
        """
        if not self.usage_in_chunks:
            return "}\n\n"
        usage = self._usage(choices)
        none_yet = {"completion_tokens": 0, "total_tokens": usage["prompt_tokens"]}
        return f',"usage":{encode_json(usage | none_yet)}}}\n\n'

    def last(self, choices: Sequence[Choice]) -> str:
        """Return the chunk after all choices: the usage, if the request asks for it."""
        if not self._usage_in_stream:
            return ""
        counted = encode_json(self._usage(choices))
        times = request_metrics(choices)
        more = f",{encode_json(times)[1:-1]}" if times else ""
        return f'{self.start}],"usage":{counted}{self._fingerprint}{more}}}\n\n'


def own_fields(delta: Delta, request: GenerationRequest) -> str:
    """Return the JSON members of a choice that OpenAI's API lacks, with a comma before each.

    They are left out until they have a value: OpenAI's SDK keeps the value of a choice's first
    chunk, and null would be one.
    """
    fields = ""
    if delta.stop_reason is not None:
        fields = f',"stop_reason":{encode_json(delta.stop_reason)}'
    if request.return_token_ids:
        fields += f',"token_ids":{encode_json(delta.token_ids)}'
    return fields
