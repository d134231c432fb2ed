"""Run a compiled model on a step's chunks; see headrace.workers.engine.runner.Runner."""

from collections.abc import Sequence

import torch

from headrace.workers.attention.backend import AttentionBatch
from headrace.workers.attention.cache_dtype import CacheDtype, choose_cache_dtype, token_bytes
from headrace.workers.engine.runner import StepwiseRunner
from headrace.workers.lora.adapter_files import LinearShape
from headrace.workers.lora.store import AdapterStore
from headrace.workers.native.adapter_slots import NativeAdapterSlots
from headrace.workers.native.program import CompiledProgram, Program
from headrace.workers.sampling.batch import compute_results, flatten
from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.sequence import Chunk, ChunkResult

_STEP_TOKENS = (
    512  # the same as for any model on a CPU: see headrace.workers.torch_runner.model_runner
)


class NativeRunner(StepwiseRunner):
    """A compiled model with its cache.

    vocab_size: token ids are below it; further rows of the head are cut from the logits.
    cache_dtype: of the cache; None: the model's.
    slots: for LoRA adapters; None: the model has none.

    Raises MemoryError if there is no memory for the cache.
    """

    default_step_tokens = _STEP_TOKENS

    def __init__(
        self,
        compiled: CompiledProgram,
        *,
        vocab_size: int,
        max_model_len: int,
        num_blocks: int,
        block_size: int,
        cache_dtype: CacheDtype | None = None,
        slots: NativeAdapterSlots | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._cache_dtype = cache_dtype or choose_cache_dtype("auto", compiled.dtype)
        self.switch_length = compiled.switch_length
        self._compiled = compiled
        self._slots = slots
        self._program: Program | None = compiled.start(num_blocks, block_size, self._cache_dtype)

    @property
    def weight_bytes(self) -> int:
        """Size of the packed weights, without small ones and those that are read unpacked."""
        return self._compiled.weight_bytes

    @property
    def cache_bytes(self) -> int:
        tokens = 0 if self._program is None else self.num_blocks * self.block_size
        return tokens * token_bytes(self._compiled.layers, self._cache_dtype)

    @property
    def cache_dtype(self) -> str:
        return self._cache_dtype

    def release_cache(self) -> None:
        self._program = None
        if self._slots is not None:
            self._slots.clear()

    def restore_cache(self) -> None:
        if self._program is None:
            self._program = self._compiled.start(
                self.num_blocks, self.block_size, self._cache_dtype
            )

    @property
    def adapter_layers(self) -> dict[str, LinearShape]:
        """The layers that adapters may change, by name."""
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
        slots = None if self._slots is None else self._slots.row_slots(chunks, rows.order)
        logits = self.forward(rows.token_ids, rows.positions, rows.wanted, rows.batch, slots)
        return compute_results(chunks, rows.order, logits)

    @torch.inference_mode()
    def forward(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        logit_rows: Sequence[int],
        batch: AttentionBatch,
        slots: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute logits [logit rows, vocabulary] of a flattened batch and cache its K/V.

        slots: the adapter slot of each row [rows]; None: no row has an adapter.
        """
        if self._program is None:
            raise RuntimeError("the cache has been released")
        logits = self._program.forward(token_ids, positions, logit_rows, batch, slots, self._slots)
        return logits[:, : self.vocab_size]
