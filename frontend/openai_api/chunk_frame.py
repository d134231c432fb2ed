"""What the chunks of one stream have in common, as JSON that is ready to be sent.

Chunks are put together from such parts; per token only its text is encoded.
"""

from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Any

from headrace.frontend.generation.choice import Choice
from headrace.frontend.openai_api.common import ResponseHead, encode_json
from headrace.frontend.schemas.generation import GenerationRequest

__all__ = ["ChunkFrame", "encode_text"]

encode_text: Callable[[str], str] = encode_basestring  # non-ASCII text as it is


class ChunkFrame:
    """start: how each chunk begins, up to its choices.

    kind: of object, "chat.completion.chunk" say.
    usage: tokens in and out of these choices so far.
    """

    def __init__(
        self,
        head: ResponseHead,
        kind: str,
        request: GenerationRequest,
        usage: Callable[[Sequence[Choice]], dict[str, Any]],
    ) -> None:
        start = {
            "id": head.answer_id,
            "object": kind,
            "created": head.created,
            "model": head.model,
        }
        self.start = f'data: {encode_json(start)[:-1]},"choices":['
        self.usage_in_chunks = request.usage_in_chunks
        self._usage_in_stream = request.usage_in_stream
        self._fingerprint = f',"system_fingerprint":{encode_json(head.fingerprint)}'
        self._usage = usage

    def end(self, choices: Sequence[Choice], ended: bool = False) -> str:
        """What follows the choices of a chunk. ended: the chunk is its choice's last."""
        so_far = f',"usage":{encode_json(self._usage(choices))}' if self.usage_in_chunks else ""
        fingerprint = self._fingerprint if ended and not self._usage_in_stream else ""
        return f"{so_far}{fingerprint}}}\n\n"

    def last(self, choices: Sequence[Choice]) -> str:
        """The chunk after all texts: the usage, if it was asked for."""
        if not self._usage_in_stream:
            return ""
        counted = encode_json(self._usage(choices))
        return f'{self.start}],"usage":{counted}{self._fingerprint}}}\n\n'
