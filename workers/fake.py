"""A runner without a model: the next token is a pure function of those before it.

For tests, and for measuring everything but the model. The next token is a checksum of the last
eight tokens and of their position, modulo the vocabulary's size. EOS is never chosen (the token
after it is taken instead), so texts end by max_tokens, by the context, or by a token that the
request names among its stop_token_ids, which is not chosen before min_tokens either.
"""

import json
import math
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

from protocol.context_length import context_length
from protocol.to_frontend import Logprobs
from workers.errors import ModelUnsupported
from workers.runner import StepwiseRunner
from workers.sequence import Chunk, ChunkResult
from workers.sequence import Sequence as EngineSequence

_SEEN = 8  # tokens before, that a token depends on


class FakeRunner(StepwiseRunner):
    """Runs nothing; `step_s` seconds a step."""

    default_step_tokens = 2048

    def __init__(
        self,
        *,
        vocab_size: int,
        max_model_len: int,
        num_blocks: int,
        block_size: int,
        step_s: float = 0.0,
    ) -> None:
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._step_s = step_s

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        if self._step_s:
            time.sleep(self._step_s)
        return [self._run_chunk(chunk) for chunk in chunks]

    def _run_chunk(self, chunk: Chunk) -> ChunkResult:
        sequence = chunk.sequence
        sampling = sequence.request.sampling
        wanted = sampling.prompt_logprobs or 0
        prompt_logprobs = tuple(
            self._logprobs(sequence.token_ids[position + 1], wanted)
            for position in chunk.prompt_logprob_positions
        )
        if not chunk.samples:
            return ChunkResult(prompt_logprobs=prompt_logprobs)
        token_id = self._next_token(sequence)
        logprobs = None
        if sampling.logprobs is not None:
            logprobs = self._logprobs(token_id, sampling.logprobs)
        return ChunkResult(token_id, logprobs, prompt_logprobs)

    def _next_token(self, sequence: EngineSequence) -> int:
        sampling = sequence.request.sampling
        length = len(sequence.token_ids)
        token_id = crc32(array("q", [*sequence.token_ids[-_SEEN:], length])) % self.vocab_size
        avoided = set(sampling.eos_token_ids)
        if sequence.num_outputs < sampling.min_tokens:
            avoided.update(sampling.stop_token_ids)
        for step in range(self.vocab_size):
            if (token_id + step) % self.vocab_size not in avoided:
                return (token_id + step) % self.vocab_size
        return token_id

    def _logprobs(self, token_id: int, num_top: int) -> Logprobs:
        """The token at probability a half, those that follow it by number at ever half of that."""
        top = range(min(num_top, self.vocab_size))
        return Logprobs(
            token_id,
            math.log(0.5),
            rank=1,
            top_token_ids=tuple((token_id + step) % self.vocab_size for step in top),
            top_logprobs=tuple((step + 1) * math.log(0.5) for step in top),
        )


def read_model_size(model_path: Path) -> tuple[int, int]:
    """(vocab_size, context length) from a model folder's config.json."""
    try:
        config = json.loads((model_path / "config.json").read_text())
        length = context_length(config)
        if length is None:
            raise ValueError("no context length")
        return int((config.get("text_config") or config)["vocab_size"]), length
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelUnsupported(
            f"{model_path / 'config.json'} must give vocab_size and max_position_embeddings"
        ) from error
