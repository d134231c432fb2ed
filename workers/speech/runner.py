"""Run the chunks of transcripts: encode what is new, decode, and say what else was asked."""

import dataclasses
import time
from collections.abc import Sequence as Items

import torch

from headrace.workers.engine.runner import StepwiseRunner
from headrace.workers.progress import reporting
from headrace.workers.sampling.batch import FlatBatch, compute_results, flatten
from headrace.workers.sampling.heard import forbid_unheard
from headrace.workers.sequence.sequence import Chunk, ChunkResult, Sequence
from headrace.workers.speech.align import token_starts
from headrace.workers.speech.backing import DecoderRows, SpeechBacking, SpeechFacts
from headrace.workers.speech.source_slots import SourceSlots

_STEP_TOKENS = 512
# What the first window of a large model may take on few cores.
_UNKNOWN_ENCODE_S = 60.0


class SpeechRunner(StepwiseRunner):
    """A model that transcribes, with its caches; see headrace.workers.engine.runner.Runner.

    slots: of windows; the scheduler gives them to requests.

    Raises MemoryError if there is no memory for the caches.
    """

    default_step_tokens = _STEP_TOKENS

    def __init__(
        self,
        backing: SpeechBacking,
        facts: SpeechFacts,
        *,
        max_model_len: int,
        num_blocks: int,
        block_size: int,
        slots: SourceSlots,
    ) -> None:
        self.facts = facts
        self.vocab_size = facts.vocab_size
        self.max_model_len = max_model_len
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.slots = slots
        self.backing = backing
        self.restore_cache()

    @property
    def weight_bytes(self) -> int | None:
        return self.backing.weight_bytes

    @property
    def cache_bytes(self) -> int | None:
        return self.backing.cache_bytes

    @property
    def cache_dtype(self) -> str:
        return self.backing.cache_dtype

    def release_cache(self) -> None:
        self.backing.stop()
        self.slots.clear()

    def restore_cache(self) -> None:
        self.backing.start(self.num_blocks, self.slots.num_slots)

    def offload_weights(self) -> None:
        self.backing.offload_weights()

    def restore_weights(self) -> None:
        self.backing.restore_weights()

    @torch.inference_mode()
    def run(self, chunks: Items[Chunk]) -> list[ChunkResult]:
        for chunk in chunks:
            self._encode(chunk.sequence)
        rows = flatten(chunks)
        ordered = [chunks[number] for number in rows.order]
        spans = [*rows.batch.decodes, *rows.batch.prefills]
        silence = [
            (number, span.first_row + audio_position - chunks[number].start)
            for number, span in zip(rows.order, spans, strict=True)
            if (audio_position := _no_speech_position(chunks[number])) is not None
        ]
        logits, scores = self._decode(rows, ordered, [row for _, row in silence])
        sampled = logits[: len(rows.wanted)]
        forbid_unheard(sampled, [chunk.sequence for chunk in ordered if chunk.samples])
        results = compute_results(chunks, rows.order, sampled)
        for (number, _), row in zip(silence, logits[len(rows.wanted) :], strict=True):
            audio = chunks[number].sequence.request.audio
            assert audio is not None
            assert audio.no_speech_id is not None
            probability = float(torch.softmax(row.float(), dim=-1)[audio.no_speech_id])
            results[number] = dataclasses.replace(results[number], no_speech_prob=probability)
        if scores is not None:
            self._align(chunks, rows, scores, results)
        return results

    def _encode(self, sequence: Sequence) -> None:
        """Encode a sequence's window, unless its slot holds it already."""
        audio = sequence.request.audio
        assert audio is not None
        if self.slots.is_filled(audio.digest):
            return
        numbers = torch.frombuffer(bytearray(audio.features), dtype=torch.float32)
        features = numbers.view(self.facts.mel_bins, self.facts.frames)
        started = time.perf_counter()
        expected_s = self.slots.encode_s or _UNKNOWN_ENCODE_S
        with reporting(self.on_progress or _nothing, expected_s):
            self.backing.encode(features, self.slots.slot_of(audio.digest))
        self.slots.fill(audio.digest, time.perf_counter() - started)
        if self.on_progress is not None:
            self.on_progress()

    def _decode(
        self, rows: FlatBatch, ordered: Items[Chunk], more: Items[int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the logits of the wanted rows and then of some more, and scores if any chunk's
        sequence asks for times."""
        audios = [chunk.sequence.request.audio for chunk in ordered]
        return self.backing.decode(
            DecoderRows(
                rows.token_ids,
                rows.positions,
                [*rows.wanted, *more],
                rows.batch,
                [self.slots.slot_of(audio.digest) for audio in audios if audio is not None],
                any(audio is not None and audio.alignment is not None for audio in audios),
            )
        )

    def _align(
        self,
        chunks: Items[Chunk],
        rows: FlatBatch,
        scores: torch.Tensor,
        results: list[ChunkResult],
    ) -> None:
        """Keep the scores of sequences that ask for times; find these after their last prompt
        token."""
        spans = [*rows.batch.decodes, *rows.batch.prefills]
        for number, span in zip(rows.order, spans, strict=True):
            sequence = chunks[number].sequence
            audio = sequence.request.audio
            if audio is None or audio.alignment is None:
                continue
            if chunks[number].start == 0:
                sequence.scores = []
            sequence.scores.append(scores[:, span.first_row : span.first_row + span.num_rows])
            if not chunks[number].samples:
                continue
            whole = torch.cat(sequence.scores, dim=1)[:, : sequence.num_prompt]
            sequence.scores = []
            starts = token_starts(
                whole, audio.alignment.first, audio.alignment.frames, self.facts.position_s
            )
            results[number] = dataclasses.replace(results[number], token_starts=starts)


def _no_speech_position(chunk: Chunk) -> int | None:
    """Return the position after which a chunk's sequence asks how likely silence is, if the chunk
    has it."""
    audio = chunk.sequence.request.audio
    if audio is None or audio.no_speech_id is None:
        return None
    position = audio.no_speech_position
    return position if chunk.start <= position < chunk.end else None


def _nothing() -> None:
    """Report nowhere."""
