"""Runs a model on a GPU without waiting for it: launches overlap, decodes are replayed graphs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.workers.attention.backend import MakeBackend, Span
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.attention.varlen import VarlenBackend
from headrace.workers.engine.runner import PENDING_TOKEN
from headrace.workers.sampling.batch import FlatBatch, flatten
from headrace.workers.sequence.sequence import Chunk, ChunkResult
from headrace.workers.sequence.sequence import Sequence as EngineSequence
from headrace.workers.torch_runner.graphs import Bucket, DecodeGraphs, DecodeInputs, Record
from headrace.workers.torch_runner.model_runner import ModelRunner
from headrace.workers.torch_runner.pending import PendingResults
from headrace.workers.uploads import upload

if TYPE_CHECKING:  # pydantic is not needed to run a model
    from headrace.workers.lora.slots import Slots


class DeviceRunner(ModelRunner):
    """A model with a VarlenBackend's cache; see headrace.workers.engine.runner.Runner."""

    overlaps = True

    def __init__(
        self,
        model: PreTrainedModel,
        hook: AttentionHook,
        *,
        max_model_len: int,
        num_blocks: int,
        block_size: int,
        make_backend: MakeBackend,
        slots: "Slots | None" = None,
    ) -> None:
        super().__init__(
            model,
            hook,
            max_model_len=max_model_len,
            num_blocks=num_blocks,
            block_size=block_size,
            make_backend=make_backend,
            slots=slots,
        )
        self._graphs: DecodeGraphs | None = None
        self._recorded: tuple[Sequence[Bucket], Record] | None = None
        self._chosen: torch.Tensor | None = None  # by the launch before
        self._row_of: dict[EngineSequence, int] = {}

    def release_cache(self) -> None:
        """Recordings know where the cache and the weights lie: they go, too."""
        self._graphs = self._chosen = None
        self._row_of = {}
        super().release_cache()

    def restore_cache(self) -> None:
        super().restore_cache()
        if self._graphs is None and self._recorded is not None:
            self.record_decodes(*self._recorded)

    @torch.inference_mode()
    def record_decodes(self, buckets: Sequence[Bucket], record: Record) -> None:
        """Replay steps of decodes from now on. RuntimeError if the model cannot be recorded."""
        backend = self._backend
        assert isinstance(backend, VarlenBackend)

        def make_inputs(bucket: Bucket) -> DecodeInputs:
            return DecodeInputs(bucket, self.block_size, backend.spare_block, self._device)

        def run(inputs: DecodeInputs) -> torch.Tensor:
            backend.prepare_static(inputs.slots, inputs.tables)
            return self.logits(inputs.token_ids, inputs.positions, 0)

        self._graphs = DecodeGraphs(buckets, make_inputs, run, record)
        self._recorded = buckets, record

    @torch.inference_mode()
    def launch(self, chunks: Sequence[Chunk]) -> PendingResults:
        rows = flatten(chunks)
        logits = self._replay(chunks, rows)
        if logits is None:
            if self._backend is None:
                raise RuntimeError("the cache has been released")
            self._backend.prepare(rows.batch)
            inputs = upload([rows.token_ids, rows.positions], torch.long, self._device)
            self._put_chosen(inputs[0], chunks, rows)
            wanted = upload(rows.wanted, torch.long, self._device)
            with self._adapted(chunks, rows):
                logits = self.logits(inputs[0], inputs[1], wanted)
        pending = PendingResults(chunks, rows.order, logits)
        self._chosen, self._row_of = pending.token_ids, pending.row_of()
        return pending

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        return self.launch(chunks).results()

    def _replay(self, chunks: Sequence[Chunk], rows: FlatBatch) -> torch.Tensor | None:
        """Logits [rows, vocabulary] of a step of decodes that all sample; None if it is another.

        Recordings have no adapters: which they are, and their ranks, differ from step to step.
        """
        spans = rows.batch.decodes
        if self._graphs is None or rows.batch.prefills or len(rows.wanted) != len(spans):
            return None
        if any(chunk.prompt_logprob_positions for chunk in chunks):
            return None
        if any(chunk.sequence.request.adapter for chunk in chunks):
            return None
        found = self._graphs.find(len(spans), max(span.length for span in spans))
        if found is None:
            return None
        inputs, recording = found
        inputs.fill(rows.token_ids, spans)
        self._put_chosen(inputs.token_ids, chunks, rows)
        recording.replay()
        return recording.output[: len(spans)]

    def _put_chosen(self, token_ids: torch.Tensor, chunks: Sequence[Chunk], rows: FlatBatch) -> None:
        """Put the tokens that the launch before chose where they are not known to the host."""
        spans: list[Span] = [*rows.batch.decodes, *rows.batch.prefills]
        places = [
            (span.first_row + span.num_rows - 1, self._row_of[chunks[number].sequence])
            for number, span in zip(rows.order, spans, strict=True)
            if rows.token_ids[span.first_row + span.num_rows - 1] == PENDING_TOKEN
        ]
        if places and self._chosen is not None:
            columns = upload(list(zip(*places, strict=True)), torch.long, self._device)
            token_ids.index_copy_(0, columns[0], self._chosen.index_select(0, columns[1]))


def record_or_not(
    runner: DeviceRunner, buckets: Sequence[Bucket], record: Record, log: Callable[[str], None]
) -> None:
    """Record the runner's decodes; where the model does not allow it, say so and go on without."""
    try:
        runner.record_decodes(buckets, record)
    except RuntimeError as error:
        reason = (str(error).splitlines() or ["unknown"])[0]
        log(f"decodes are run without CUDA graphs: {reason}")
    else:
        log(f"decodes are run as CUDA graphs, {len(buckets)} of them")
