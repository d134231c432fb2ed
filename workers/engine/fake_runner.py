"""Run requests without a model: the next token is a pure function of those before it.

For tests, and for measuring all but the model. The next token is chosen by a checksum of the last
eight tokens, of their position and of the adapter: among the tokens that are printable text by
themselves if there is a tokenizer (parts of a character would make no text, and streams would show
fewer events than tokens), else among all. EOS is never chosen (the choice after it is taken
instead), so outputs end by max_tokens, by the context, or by one of the request's stop_token_ids,
which is not chosen before min_tokens either. With a grammar, choices that it does not allow are
skipped; if none is left, the first allowed token of the vocabulary is taken, starting at the
checksum. A spent thinking budget precedes all that. Allowed tokens and bad words are respected,
biases are not.
"""

import json
import math
import time
from array import array
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from zlib import crc32

from tokenizers import Tokenizer

from headrace.protocol.common.context_length import context_length
from headrace.protocol.to_frontend import Logprobs
from headrace.workers.engine.runner import StepwiseRunner
from headrace.workers.errors import ModelUnsupported
from headrace.workers.lora.fake import FakeAdapters
from headrace.workers.sampling.verify import verify_drafts
from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.sequence import Chunk, ChunkResult, DraftedSequence
from headrace.workers.sequence.sequence import Sequence as EngineSequence
from headrace.workers.sequence.thinking import forced_token

_SEEN = 8  # how many tokens before it a token depends on


class FakeRunner(StepwiseRunner):
    """A runner that takes `step_s` seconds a step and runs nothing.

    choices: the tokens of its outputs; the whole vocabulary if empty.
    """

    default_step_tokens = 2048

    def __init__(
        self,
        *,
        vocab_size: int,
        max_model_len: int,
        num_blocks: int,
        block_size: int,
        step_s: float = 0.0,
        choices: Sequence[int] = (),
    ) -> None:
        self._adapters = FakeAdapters()
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._step_s = step_s
        self._choices = choices or range(vocab_size)
        self._has_cache = True

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        if not self._has_cache:
            raise RuntimeError("the cache has been released")
        if self._step_s:
            time.sleep(self._step_s)
        return [self._run_chunk(chunk) for chunk in chunks]

    @property
    def weight_bytes(self) -> int:
        return 0

    @property
    def cache_bytes(self) -> int:
        return 0

    def release_cache(self) -> None:
        self._has_cache = False

    def restore_cache(self) -> None:
        self._has_cache = True

    def new_adapters(self, max_rank: int) -> FakeAdapters:
        return FakeAdapters()

    def use_adapters(self, adapters: EngineAdapters) -> None:
        assert isinstance(adapters, FakeAdapters)
        self._adapters = adapters

    def _run_chunk(self, chunk: Chunk) -> ChunkResult:
        sequence = chunk.sequence
        num_top = sequence.request.sampling.prompt_logprobs or 0
        prompt_logprobs = tuple(
            self._logprobs(sequence.token_ids[position + 1], num_top)
            for position in chunk.prompt_logprob_positions
        )
        if not chunk.samples:
            return ChunkResult(prompt_logprobs=prompt_logprobs)
        chosen = [
            self._choose(sequence, chunk.drafts[:end]) for end in range(len(chunk.drafts) + 1)
        ]
        return replace(verify_drafts(chunk, chosen), prompt_logprobs=prompt_logprobs)

    def _choose(self, sequence: EngineSequence, drafts: tuple[int, ...]) -> ChunkResult:
        """Return the result for the token after the sequence's own and some drafts."""
        token_id = self._next_token(sequence, drafts)
        num_top = sequence.request.sampling.logprobs
        requested = sequence.request.sampling.logprob_token_ids
        if num_top is None:
            return ChunkResult(token_id)
        return ChunkResult(token_id, self._logprobs(token_id, num_top, requested))

    def _next_token(self, sequence: EngineSequence, drafts: tuple[int, ...]) -> int:
        forced = forced_token(DraftedSequence(sequence, drafts) if drafts else sequence)
        if forced is not None:
            return forced
        sampling = sequence.request.sampling
        length = len(sequence.token_ids) + len(drafts)
        seen = [*sequence.token_ids[-_SEEN:], *drafts][-_SEEN:]
        adapter = self._adapters.checksum(sequence.request.adapter)
        first = crc32(array("q", [*seen, length]), adapter)
        avoided = set(sampling.eos_token_ids)
        if length - sequence.num_prompt < sampling.min_tokens:
            avoided.update(sampling.stop_token_ids)
        avoided.update(sequence.banned_token_ids(drafts))
        choices = sampling.allowed_token_ids or self._choices
        mask = sequence.grammar and sequence.grammar.mask_after(len(drafts))
        allows = partial(mask.rows.allows, mask.row) if mask else _allow_all
        found = _first_allowed(choices, first, avoided, allows)
        if found is None and mask:
            found = _first_allowed(range(self.vocab_size), first, avoided, allows)
        if found is None and mask:  # EOS, or a token that ends the output too early
            found = _first_allowed(range(self.vocab_size), first, (), allows)
        return choices[(first - 1) % len(choices)] if found is None else found

    def _logprobs(self, token_id: int, num_top: int, requested: tuple[int, ...] = ()) -> Logprobs:
        """Give the token probability 1/2, and halve it for each id that follows."""
        size = self.vocab_size
        top = requested or [(token_id + step) % size for step in range(min(num_top, size))]
        return Logprobs(
            token_id,
            math.log(0.5),
            rank=1,
            top_token_ids=tuple(top),
            top_logprobs=tuple(((other - token_id) % size + 1) * math.log(0.5) for other in top),
        )


def _allow_all(token_id: int) -> bool:
    return True


def _first_allowed(
    choices: Sequence[int],
    first: int,
    avoided: Container[int],
    allows: Callable[[int], bool],
) -> int | None:
    """Return the first choice that is allowed and not avoided, or None.

    The search starts at index `first` and wraps around.
    """
    for step in range(len(choices)):
        token_id = choices[(first + step) % len(choices)]
        if token_id not in avoided and allows(token_id):
            return token_id
    return None


def read_model_size(model_path: Path) -> tuple[int, int]:
    """Return (vocab_size, context length) from a model folder's config.json.

    Raises ModelUnsupported if they are missing.
    """
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


def read_choices(model_path: Path, vocab_size: int) -> list[int]:
    """Return the tokens below `vocab_size` that are printable text by themselves.

    Empty if the folder has no tokenizer.json. Raises ModelUnsupported if that cannot be read.
    """
    path = model_path / "tokenizer.json"
    if not path.exists():
        return []
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ModelUnsupported(f"{path} cannot be read: {error}") from error
    token_ids = range(min(vocab_size, tokenizer.get_vocab_size()))
    texts = tokenizer.decode_batch([[token_id] for token_id in token_ids], skip_special_tokens=True)
    return [
        token_id for token_id, text in zip(token_ids, texts, strict=True) if _is_printable(text)
    ]


def _is_printable(text: str) -> bool:
    return text.isprintable() and text.strip() != "" and "\ufffd" not in text
