"""Run a transformers model that pools on torch's operations."""

from collections.abc import Callable, Sequence
from itertools import chain

import torch

from headrace.protocol.to_worker import Encode
from headrace.workers.lora.store import AdapterStore
from headrace.workers.pooling.encoder import Encoder
from headrace.workers.pooling.pooler import head_of, join_pieces
from headrace.workers.pooling.runner import EncodeResult, TextLimits, TextPooler
from headrace.workers.sequence.engine_adapters import EngineAdapters

_CPU_STEP_TOKENS = 4096
_GPU_STEP_TOKENS = 32768


class TorchPoolingRunner:
    """A model and what pools its vectors; see headrace.workers.pooling.runner.PoolingRunner."""

    def __init__(self, encoder: Encoder, pooler: TextPooler, limits: TextLimits) -> None:
        self.limits = limits
        self._encoder, self._pooler = encoder, pooler
        self._device = encoder.model.device
        on_cpu = self._device.type == "cpu"
        self.default_step_tokens = _CPU_STEP_TOKENS if on_cpu else _GPU_STEP_TOKENS
        self._is_offloaded = False

    @torch.inference_mode()
    def run(self, requests: Sequence[Encode], report: Callable[[], None]) -> list[EncodeResult]:
        vectors = self._encoder.encode(requests, report)
        return [
            self._pooler.pool(request, rows, head_of(self._encoder.slots, request.adapter))
            for request, rows in zip(requests, vectors, strict=True)
        ]

    def new_adapters(self, max_rank: int) -> AdapterStore | None:
        slots = self._encoder.slots
        return None if slots is None else AdapterStore(slots.shapes, max_rank, self._pooler.head)

    def use_adapters(self, adapters: EngineAdapters) -> None:
        assert self._encoder.slots is not None
        assert isinstance(adapters, AdapterStore)
        self._encoder.slots.store = adapters

    def join(self, request: Encode, mean: Sequence[float]) -> EncodeResult:
        return join_pieces(request, mean, self.limits.normalizes)

    @property
    def weight_bytes(self) -> int:
        model = self._encoder.model
        return sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))

    def offload_weights(self) -> None:
        if self._device.type != "cpu" and not self._is_offloaded:
            self._encoder.model.to("cpu")
            self._is_offloaded = True

    def restore_weights(self) -> None:
        if self._is_offloaded:
            self._encoder.model.to(self._device)
            self._is_offloaded = False
