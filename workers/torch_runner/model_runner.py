"""Run a transformers model on a step's chunks, flattened to one row of tokens each step."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import TYPE_CHECKING

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.common.context_length import switch_length
from headrace.workers.attention.backend import AttentionBackend, AttentionBatch, BackendFactory
from headrace.workers.attention.cache_dtype import CacheDtype, choose_cache_dtype, token_bytes
from headrace.workers.attention.hook import AttentionHook, vocab_rows
from headrace.workers.attention.pass_options import PassOptions
from headrace.workers.attention.rope_switch import long_rows
from headrace.workers.attention.sdpa import SdpaBackend
from headrace.workers.engine.runner import StepwiseRunner
from headrace.workers.lora.adapter_files import LinearShape
from headrace.workers.lora.store import AdapterStore
from headrace.workers.recurrent.probe import StateShapes, state_bytes
from headrace.workers.recurrent.slots import StateTensors, StepStates
from headrace.workers.recurrent.split import CACHE
from headrace.workers.sampling.batch import FlatBatch, compute_results, flatten
from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.sequence import Chunk, ChunkResult
from headrace.workers.transfers import upload

if TYPE_CHECKING:  # pydantic is not needed to run a model
    from headrace.workers.lora.slots import AdapterSlots

# Decodes wait for a step while a prompt is run: it takes about as long on either device. It must
# also stay far below the time after which a worker counts as stalled.
_CPU_STEP_TOKENS = 512
_GPU_STEP_TOKENS = 8192


class ModelRunner(StepwiseRunner):
    """A model with its cache; see headrace.workers.engine.runner.Runner.

    cache_dtype: of the cache that make_backend makes; None: the model's.
    slots: for LoRA adapters; None: the model has none.
    state_shapes: of its recurrent layers' states; None or empty: it has none.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        hook: AttentionHook,
        *,
        max_model_len: int,
        num_blocks: int,
        block_size: int,
        make_backend: BackendFactory = SdpaBackend,
        cache_dtype: CacheDtype | None = None,
        slots: "AdapterSlots | None" = None,
        state_shapes: StateShapes | None = None,
        num_state_slots: int = 0,
    ) -> None:
        self.vocab_size: int = vocab_rows(model)
        self.max_model_len = max_model_len
        self.num_blocks = num_blocks
        self.block_size = block_size
        on_cpu = model.device.type == "cpu"
        self.default_step_tokens = _CPU_STEP_TOKENS if on_cpu else _GPU_STEP_TOKENS
        self._model = model
        self._pass_options = PassOptions(model)
        config = model.config.get_text_config(decoder=True)
        self.switch_length = switch_length(config.to_dict())
        self._device = model.device
        self._hook, self._make_backend = hook, make_backend
        self._cache_dtype = cache_dtype or choose_cache_dtype("auto", model.dtype)
        self._slots = slots
        self._state_shapes = state_shapes or {}
        self.num_state_slots = num_state_slots if state_shapes else 0
        self._states: StepStates | None = None
        self._is_offloaded = False
        self._backend: AttentionBackend | None = None
        self._make_cache()

    @property
    def weight_bytes(self) -> int:
        tensors = chain(self._model.parameters(), self._model.buffers())
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def cache_bytes(self) -> int:
        if self._backend is None:
            return 0
        tokens = self.num_blocks * self.block_size
        states = self.num_state_slots * state_bytes(self._state_shapes)
        return tokens * token_bytes(self._hook.layers, self._cache_dtype) + states

    @property
    def cache_dtype(self) -> str:
        return self._cache_dtype

    def release_cache(self) -> None:
        self._backend = self._hook.backend = self._states = None
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
            if self._state_shapes:
                self._states = StepStates(
                    StateTensors(self._state_shapes, self.num_state_slots, self._device)
                )

    def offload_weights(self) -> None:
        if self._device.type == "cpu" or self._is_offloaded:
            return
        for tensor in chain(self._model.parameters(), self._model.buffers()):
            # Pinned memory is copied back directly and is never swapped out.
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
    def adapter_layers(self) -> dict[str, LinearShape]:
        """The layers that adapters may change, by name."""
        return {} if self._slots is None else self._slots.shapes

    def new_adapters(self, max_rank: int) -> AdapterStore | None:
        return None if self._slots is None else AdapterStore(self.adapter_layers, max_rank)

    def use_adapters(self, adapters: EngineAdapters) -> None:
        assert self._slots is not None
        assert isinstance(adapters, AdapterStore)
        self._slots.store = adapters

    def _with_adapters(
        self, chunks: Sequence[Chunk], rows: FlatBatch
    ) -> AbstractContextManager[None]:
        """Apply the chunks' adapters to the model within the context."""
        return nullcontext() if self._slots is None else self._slots.applied(chunks, rows.order)

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        rows = flatten(chunks)
        with self._with_adapters(chunks, rows):
            logits = self.forward(rows.token_ids, rows.positions, rows.wanted, rows.batch)
        return compute_results(chunks, rows.order, logits)

    @torch.inference_mode()
    def forward(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        logit_rows: Sequence[int],
        batch: AttentionBatch,
    ) -> torch.Tensor:
        """Compute logits [logit rows, vocabulary] of a batch, and cache its K/V and states."""
        inputs = upload([token_ids, positions], torch.long, self._device)
        with self._prepared(batch):
            return self.logits(inputs[0], inputs[1], upload(logit_rows, torch.long, self._device))

    @contextmanager
    def _prepared(self, batch: AttentionBatch) -> Iterator[None]:
        """Prepare a step that runs within the context; snapshots of states are taken after it."""
        if self._backend is None:
            raise RuntimeError("the cache has been released")
        self._backend.prepare(batch)
        rows = None if self.switch_length is None else long_rows(batch, self.switch_length)
        self._hook.long_rows = None if rows is None else upload(rows, torch.bool, self._device)
        if self._states is not None:
            self._states.begin(batch)
        yield
        if self._states is not None:
            self._states.end()

    def logits(
        self, token_ids: torch.Tensor, positions: torch.Tensor, logit_rows: torch.Tensor | int
    ) -> torch.Tensor:
        """Compute logits [logit rows, vocabulary] of a batch [rows] that the backend has prepared.

        logit_rows: the rows whose logits are needed; 0: all.
        """
        options = self._pass_options.of(positions.unsqueeze(0))
        if self._states is not None:
            options[CACHE] = self._states
        output = self._model(
            input_ids=token_ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            logits_to_keep=logit_rows,
            **options,
        )
        logits: torch.Tensor = output.logits[0, :, : self.vocab_size]
        return logits
