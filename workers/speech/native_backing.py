"""Run a model that transcribes as one compiled program of three sections."""

import torch

from headrace.workers.attention.backend import Span
from headrace.workers.attention.cache_dtype import CacheDtype, choose_cache_dtype, token_bytes
from headrace.workers.native.program import CompiledProgram, Program
from headrace.workers.speech.backing import DecoderRows, SpeechFacts

_STEM, _ENCODER = 0, 1  # sections of the program; the decoder's is the last


class NativeSpeech:
    """A program with its caches; see headrace.workers.speech.backing.SpeechBacking."""

    def __init__(
        self,
        compiled: CompiledProgram,
        facts: SpeechFacts,
        block_size: int,
        cache_dtype: CacheDtype | None = None,
    ) -> None:
        self._compiled, self._facts = compiled, facts
        self._block_size = block_size
        self._slot_blocks = -(-facts.positions // block_size)
        self._num_blocks = self._num_slots = 0
        self._filled: dict[int, int] = {}  # positions of each slot
        self._cache_dtype = cache_dtype or choose_cache_dtype("auto", compiled.dtype)
        self._program: Program | None = None
        self._hidden = torch.empty(0)

    @property
    def program(self) -> CompiledProgram:
        """The model's instructions and weights."""
        return self._compiled

    @property
    def weight_bytes(self) -> int:
        """Size of the packed weights, without small ones and those that are read unpacked."""
        return self._compiled.weight_bytes

    @property
    def cache_bytes(self) -> int:
        """Size of the caches, of which only what has been written takes memory."""
        if self._program is None:
            return 0
        own = token_bytes(self._compiled.layers, self._cache_dtype) * self._num_blocks
        of_source = token_bytes(self._compiled.source_layers, self._cache_dtype)
        return (own + of_source * self._slot_blocks * self._num_slots) * self._block_size

    @property
    def cache_dtype(self) -> str:
        return self._cache_dtype

    def start(self, num_blocks: int, num_slots: int) -> None:
        if self._program is None:
            self._num_blocks, self._num_slots = num_blocks, num_slots
            self._program = self._compiled.start(
                num_blocks,
                self._block_size,
                self._cache_dtype,
                source_blocks=num_slots * self._slot_blocks,
                passing_blocks=self._slot_blocks,
            )

    def stop(self) -> None:
        self._program = None
        self._hidden = torch.empty(0)

    def offload_weights(self) -> None:
        """Leave the weights: they are in the host's memory."""

    def restore_weights(self) -> None:
        """Leave the weights: they are where they were."""

    @torch.inference_mode()
    def encode(self, features: torch.Tensor, slot: int) -> None:
        program = self._started
        bins, frames = features.shape
        # A position's three neighbours are three rows one after another, the first and the last of
        # which are zeros.
        rows = torch.zeros((frames + 2, bins))
        rows[1:-1] = features.t()
        windows = rows.as_strided((frames, 3 * bins), (bins, 1))
        positions, size = frames // 2, self._facts.size
        hidden = self._hidden_rows(frames + 2)
        for first in (0, positions):  # as many rows at a time as the encoder has
            part = windows[first : first + positions]
            program.run_section(_STEM, part, hidden[1 + first :])
        of_encoder = hidden.as_strided((positions, 3 * size), (2 * size, 1))
        own = Span(0, positions, 0, range(self._slot_blocks))
        program.run_section(_ENCODER, of_encoder, None, own, self._source(slot, positions, 0))
        self._filled[slot] = positions

    @torch.inference_mode()
    def decode(self, rows: DecoderRows) -> tuple[torch.Tensor, torch.Tensor | None]:
        scores = None
        if rows.wants_scores:
            shape = (len(self._facts.heads), len(rows.token_ids), self._facts.positions)
            scores = torch.zeros(shape)
        spans = [*rows.batch.decodes, *rows.batch.prefills]
        sources = [
            self._source(slot, span.num_rows, span.first_row, self._filled[slot])
            for slot, span in zip(rows.slots, spans, strict=True)
        ]
        logits = self._started.forward(
            rows.token_ids, rows.positions, rows.wanted, rows.batch, sources=sources, scores=scores
        )
        return logits[:, : self._facts.vocab_size], scores

    @property
    def _started(self) -> Program:
        if self._program is None:
            raise RuntimeError("the cache has been released")
        return self._program

    def _source(self, slot: int, num_rows: int, first_row: int, positions: int = 0) -> Span:
        """Return a slot's positions as the kernels read them: as what comes before some rows, and
        in their place.

        positions: that the slot holds; 0: those that the rows are about to write.
        """
        first = slot * self._slot_blocks
        context = positions - num_rows if positions else 0
        return Span(first_row, num_rows, context, range(first, first + self._slot_blocks))

    def _hidden_rows(self, count: int) -> torch.Tensor:
        """Return rows for the first convolution's values, the first and the last of them zeros."""
        size = self._facts.size
        if len(self._hidden) != count:
            self._hidden = torch.zeros((count, size))
        return self._hidden
