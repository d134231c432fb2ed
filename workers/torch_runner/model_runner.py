"""Runs a transformers model on a step's chunks: one flattened row of tokens, paged attention."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import TYPE_CHECKING

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.workers.attention.backend import AttentionBackend, AttentionBatch, MakeBackend
from headrace.workers.attention.hook import AttentionHook, vocab_rows
from headrace.workers.attention.sdpa import SdpaBackend
from headrace.workers.engine.runner import StepwiseRunner
from headrace.workers.lora.files import LayerShape
from headrace.workers.lora.store import AdapterStore
from headrace.workers.sampling.batch import FlatBatch, compute_results, flatten
from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.sequence import Chunk, ChunkResult
from headrace.workers.uploads import upload

if TYPE_CHECKING:  # pydantic is not needed to run a model
    from headrace.workers.lora.slots import Slots

# A step is what decodes wait for while a prompt is run: about as long on either device. It also
# has to stay far below the time after which a worker counts as stalled.
_CPU_STEP_TOKENS = 512
_GPU_STEP_TOKENS = 8192


class ModelRunner(StepwiseRunner):
    """A model with its cache; see workers.engine.runner.Runner. slots: None: it runs no
    adapters."""

    def __init__(
        self,
        model: PreTrainedModel,
        hook: AttentionHook,
        *,
        max_model_len: int,
        num_blocks: int,
        block_size: int,
        make_backend: MakeBackend = SdpaBackend,
        slots: "Slots | None" = None,
    ) -> None:
        self.vocab_size: int = vocab_rows(model)
        self.max_model_len = max_model_len
        self.num_blocks = num_blocks
        self.block_size = block_size
        on_cpu = model.device.type == "cpu"
        self.default_step_tokens = _CPU_STEP_TOKENS if on_cpu else _GPU_STEP_TOKENS
        self._model = model
        self._device = model.device
        self._hook, self._make_backend = hook, make_backend
        self._slots = slots
        self._is_offloaded = False
        self._backend: AttentionBackend | None = None
        self._make_cache()

    @property
    def weight_bytes(self) -> int:
        return sum(each.nbytes for each in chain(self._model.parameters(), self._model.buffers()))

    @property
    def cache_bytes(self) -> int:
        tokens = 0 if self._backend is None else self.num_blocks * self.block_size
        elements = sum(layer.elements for layer in self._hook.layers)
        return tokens * elements * self._model.dtype.itemsize

    def release_cache(self) -> None:
        self._backend = self._hook.backend = None
        if self._slots is not None:
            self._slots.clear()

    def restore_cache(self) -> None:
        self._make_cache()

    def _make_cache(self) -> None:
        if self._backend is None:
            model, layers = self._model, self._hook.layers
            self._backend = self._hook.backend = self._make_backend(
                layers, self.num_blocks, self.block_size, model.dtype, self._device
            )

    def offload_weights(self) -> None:
        if self._device.type == "cpu" or self._is_offloaded:
            return
        for tensor in chain(self._model.parameters(), self._model.buffers()):
            # Pinned: what comes back is copied without a detour, and is never swapped out.
            host = torch.empty_like(tensor, device="cpu", pin_memory=True)
            tensor.data = host.copy_(tensor.data)
        self._is_offloaded = True

    def restore_weights(self) -> None:
        if not self._is_offloaded:
            return
        for tensor in chain(self._model.parameters(), self._model.buffers()):
            tensor.data = tensor.data.to(self._device, non_blocking=True)
        torch.cuda.synchronize(self._device)
        self._is_offloaded = False

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

    def _adapted(self, chunks: Sequence[Chunk], rows: FlatBatch) -> AbstractContextManager[None]:
        """Within, the model has the chunks' adapters."""
        return nullcontext() if self._slots is None else self._slots.applied(chunks, rows.order)

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        rows = flatten(chunks)
        with self._adapted(chunks, rows):
            logits = self.forward(rows.token_ids, rows.positions, rows.wanted, rows.batch)
        return compute_results(chunks, rows.order, logits)

    @torch.inference_mode()
    def forward(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        batch: AttentionBatch,
    ) -> torch.Tensor:
        """Logits [wanted rows, vocabulary] of a flattened batch, whose K/V go to the cache."""
        if self._backend is None:
            raise RuntimeError("the cache has been released")
        self._backend.prepare(batch)
        inputs = upload([token_ids, positions], torch.long, self._device)
        return self.logits(inputs[0], inputs[1], upload(wanted, torch.long, self._device))

    def logits(
        self, token_ids: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor | int
    ) -> torch.Tensor:
        """Logits [wanted rows, vocabulary] of a batch [rows] that the backend is prepared for.

        wanted: the rows' numbers; 0: all.
        """
        output = self._model(
            input_ids=token_ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=wanted,
        )
        logits: torch.Tensor = output.logits[0, :, : self.vocab_size]
        return logits
