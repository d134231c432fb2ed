"""Run texts by an encoder, which computes vectors of tokens, and a pooler, which makes numbers of
them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from headrace.protocol.to_worker import Encode
from headrace.workers.lora.store import AdapterStore
from headrace.workers.pooling.pooler import head_of, join_pieces
from headrace.workers.pooling.runner import EncodeResult, TextLimits, TextPooler
from headrace.workers.sequence.engine_adapters import EngineAdapters

if TYPE_CHECKING:  # an embedder whose program is cached needs no transformers
    from headrace.workers.lora.slots import AdapterSlots
    from headrace.workers.native.adapter_slots import NativeAdapterSlots


class TextEncoder(Protocol):
    """Computes the vectors of texts' tokens. slots: of adapters; None: it takes none."""

    @property
    def slots(self) -> "NativeAdapterSlots | AdapterSlots | None": ...

    def encode(self, requests: Sequence[Encode], report: Callable[[], None]) -> list[Tensor]:
        """Return the vectors [tokens, size] of each text. report: see PoolingRunner.run."""
        ...


AnyEncoder = TypeVar("AnyEncoder", bound=TextEncoder)


class EncoderRunner(Generic[AnyEncoder]):
    """What runners of models with layers share; see headrace.workers.pooling.runner."""

    def __init__(self, encoder: AnyEncoder, pooler: TextPooler, limits: TextLimits) -> None:
        self.limits = limits
        self._encoder, self._pooler = encoder, pooler

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
