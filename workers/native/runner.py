"""Runs a compiled model on a step's chunks; see headrace.workers.engine.runner.Runner."""

from collections.abc import Sequence

import torch

from headrace.workers.attention.backend import AttentionBatch
from headrace.workers.engine.runner import StepwiseRunner
from headrace.workers.lora.files import LayerShape
from headrace.workers.lora.store import AdapterStore
from headrace.workers.native.adapters import NativeSlots
from headrace.workers.native.program import Compiled, Program
from headrace.workers.sampling.batch import compute_results, flatten
from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.sequence import Chunk, ChunkResult

_STEP_TOKENS = 512  # as for any model on a CPU: see headrace.workers.torch_runner.model_runner


class NativeRunner(StepwiseRunner):
    """A compiled model with its cache. MemoryError if there is no memory for that.

    vocab_size: token ids are below it; the logits of further rows of the head are left out.
    slots: for its adapters; None: it runs none.
    """

    default_step_tokens = _STEP_TOKENS

    def __init__(
        self,
        compiled: Compiled,
        *,
        vocab_size: int,
        max_model_len: int,
        num_blocks: int,
        block_size: int,
        slots: NativeSlots | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._compiled = compiled
        self._slots = slots
        self._program: Program | None = compiled.start(num_blocks, block_size)

    @property
    def weight_bytes(self) -> int:
        """Those that were packed; what is small, or read where it lies, is not counted."""
        return self._compiled.weight_bytes

    @property
    def cache_bytes(self) -> int:
        tokens = 0 if self._program is None else self.num_blocks * self.block_size
        return tokens * self._compiled.token_bytes

    def release_cache(self) -> None:
        self._program = None
        if self._slots is not None:
            self._slots.clear()

    def restore_cache(self) -> None:
        if self._program is None:
            self._program = self._compiled.start(self.num_blocks, self.block_size)

    @property
    def adapter_layers(self) -> dict[str, LayerShape]:
        """The layers that adapters may change, by their names in the model."""
        return {} if self._slots is None else self._slots.shapes

    def new_adapters(self, max_rank: int) -> AdapterStore | None:
        return None if self._slots is None else AdapterStore(self.adapter_layers, max_rank)

    def use_adapters(self, adapters: EngineAdapters) -> None:
        assert self._slots is not None
        assert isinstance(adapters, AdapterStore)
        self._slots.store = adapters

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        rows = flatten(chunks)
        slots = None if self._slots is None else self._slots.slots_of(chunks, rows.order)
        logits = self.forward(rows.token_ids, rows.positions, rows.wanted, rows.batch, slots)
        return compute_results(chunks, rows.order, logits)

    @torch.inference_mode()
    def forward(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        batch: AttentionBatch,
        slots: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits [wanted rows, vocabulary] of a flattened batch, whose K/V go to the cache.
        slots: which adapter is each row's [rows]; None: no row has one."""
        if self._program is None:
            raise RuntimeError("the cache has been released")
        logits = self._program.forward(token_ids, positions, wanted, batch, slots, self._slots)
        return logits[:, : self.vocab_size]
