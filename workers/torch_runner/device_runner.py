"""Run a model on a GPU without waiting for it: steps overlap, decodes are replayed CUDA graphs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.workers.attention.backend import BackendFactory, Span
from headrace.workers.attention.cache_dtype import CacheDtype
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.attention.varlen import VarlenBackend
from headrace.workers.engine.runner import PENDING_TOKEN
from headrace.workers.recurrent.probe import StateShapes
from headrace.workers.sampling.batch import FlatBatch, flatten
from headrace.workers.sequence.sequence import Chunk, ChunkResult
from headrace.workers.sequence.sequence import Sequence as EngineSequence
from headrace.workers.torch_runner.decode_graphs import (
    Bucket,
    CaptureFunction,
    DecodeGraphs,
    DecodeInputs,
)
from headrace.workers.torch_runner.model_runner import ModelRunner
from headrace.workers.torch_runner.pending_results import PendingResults
from headrace.workers.transfers import upload

if TYPE_CHECKING:  # pydantic is not needed to run a model
    from headrace.workers.lora.slots import AdapterSlots


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
        make_backend: BackendFactory,
        cache_dtype: CacheDtype | None = None,
        slots: "AdapterSlots | None" = None,
        state_shapes: StateShapes | None = None,
        num_state_slots: int = 0,
    ) -> None:
        super().__init__(
            model,
            hook,
            max_model_len=max_model_len,
            num_blocks=num_blocks,
            block_size=block_size,
            make_backend=make_backend,
            cache_dtype=cache_dtype,
            slots=slots,
            state_shapes=state_shapes,
            num_state_slots=num_state_slots,
        )
        self._graphs: DecodeGraphs | None = None
        self._captured: tuple[Sequence[Bucket], CaptureFunction] | None = None
        self._sampled_tokens: torch.Tensor | None = None  # by the previous launch
        self._rows_by_sequence: dict[EngineSequence, int] = {}

    def release_cache(self) -> None:
        """Release the cache and the captured graphs, which hold its address and the weights'."""
        self._graphs = self._sampled_tokens = None
        self._rows_by_sequence = {}
        super().release_cache()

    def restore_cache(self) -> None:
        super().restore_cache()
        if self._graphs is None and self._captured is not None:
            self.capture_decodes(*self._captured)

    @torch.inference_mode()
    def capture_decodes(self, buckets: Sequence[Bucket], capture: CaptureFunction) -> None:
        """Capture decode steps, to replay them from now on.

        Raises RuntimeError if the model cannot be captured.
        """
        backend = self._backend
        assert isinstance(backend, VarlenBackend)

        def make_inputs(bucket: Bucket) -> DecodeInputs:
            return DecodeInputs(bucket, self.block_size, backend.spare_block, self._device)

        def run(inputs: DecodeInputs) -> torch.Tensor:
            backend.prepare_static(inputs.slots, inputs.tables)
            return self.logits(inputs.token_ids, inputs.positions, 0)

        self._graphs = DecodeGraphs(buckets, make_inputs, run, capture)
        self._captured = buckets, capture

    @torch.inference_mode()
    def launch(self, chunks: Sequence[Chunk]) -> PendingResults:
        rows = flatten(chunks)
        logits = self._replay(chunks, rows)
        if logits is None:
            inputs = upload([rows.token_ids, rows.positions], torch.long, self._device)
            self._fill_pending_tokens(inputs[0], chunks, rows)
            wanted = upload(rows.wanted, torch.long, self._device)
            with self._prepared(rows.batch), self._with_adapters(chunks, rows):
                logits = self.logits(inputs[0], inputs[1], wanted)
        pending = PendingResults(chunks, rows.order, logits)
        self._sampled_tokens, self._rows_by_sequence = pending.token_ids, pending.rows_by_sequence()
        return pending

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        return self.launch(chunks).results()

    def _replay(self, chunks: Sequence[Chunk], rows: FlatBatch) -> torch.Tensor | None:
        """Replay a step of decodes that all sample: logits [rows, vocabulary]; None for others.

        Graphs cannot have adapters, whose number and ranks differ from step to step.
        """
        spans = rows.batch.decodes
        if self._graphs is None or rows.batch.prefills or len(rows.wanted) != len(spans):
            return None
        if any(chunk.prompt_logprob_positions for chunk in chunks):
            return None
        if any(chunk.sequence.request.adapter for chunk in chunks):
            return None
        captured = self._graphs.find(len(spans), max(span.length for span in spans))
        if captured is None:
            return None
        inputs, graph = captured
        inputs.fill(rows.token_ids, spans)
        self._fill_pending_tokens(inputs.token_ids, chunks, rows)
        graph.replay()
        return graph.output[: len(spans)]

    def _fill_pending_tokens(
        self, token_ids: torch.Tensor, chunks: Sequence[Chunk], rows: FlatBatch
    ) -> None:
        """Replace pending tokens by those that the previous launch sampled, on the device."""
        spans: list[Span] = [*rows.batch.decodes, *rows.batch.prefills]
        sources = [
            (span.first_row + span.num_rows - 1, self._rows_by_sequence[chunks[number].sequence])
            for number, span in zip(rows.order, spans, strict=True)
            if rows.token_ids[span.first_row + span.num_rows - 1] == PENDING_TOKEN
        ]
        if sources and self._sampled_tokens is not None:
            columns = upload(list(zip(*sources, strict=True)), torch.long, self._device)
            token_ids.index_copy_(0, columns[0], self._sampled_tokens.index_select(0, columns[1]))


def try_capture_decodes(
    runner: DeviceRunner,
    buckets: Sequence[Bucket],
    capture: CaptureFunction,
    log: Callable[[str], None],
) -> None:
    """Capture the runner's decodes; log the reason if the model does not allow it."""
    try:
        runner.capture_decodes(buckets, capture)
    except RuntimeError as error:
        reason = (str(error).splitlines() or ["unknown"])[0]
        log(f"running decodes without CUDA graphs: {reason}")
    else:
        log(f"running decodes with {len(buckets)} CUDA graphs")
