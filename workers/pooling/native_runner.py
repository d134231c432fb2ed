"""Run a compiled model that pools."""

from collections.abc import Callable, Sequence

import torch

from headrace.protocol.to_worker import Encode
from headrace.workers.lora.store import AdapterStore
from headrace.workers.native.program import CompiledProgram
from headrace.workers.pooling.compiled_encoder import CompiledEncoder
from headrace.workers.pooling.pooler import head_of, join_pieces
from headrace.workers.pooling.runner import EncodeResult, TextLimits, TextPooler
from headrace.workers.sequence.engine_adapters import EngineAdapters

_STEP_TOKENS = 4096


def leave_cores_to_programs() -> None:
    """Keep torch to one thread: what is left for it beside a program is small, and its other
    threads would spin after each operation, on the cores of the program's threads."""
    torch.set_num_threads(1)


class NativePoolingRunner:
    """A program and what pools its vectors; see headrace.workers.pooling.runner.PoolingRunner."""

    default_step_tokens = _STEP_TOKENS

    def __init__(self, encoder: CompiledEncoder, pooler: TextPooler, limits: TextLimits) -> None:
        self.limits = limits
        self._encoder, self._pooler = encoder, pooler

    @property
    def program(self) -> CompiledProgram:
        """The model's instructions and weights."""
        return self._encoder.compiled

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
        """Size of the packed weights, without small ones and those that are read unpacked."""
        return self._encoder.compiled.weight_bytes

    def offload_weights(self) -> None:
        """Leave the weights: they are in the host's memory."""

    def restore_weights(self) -> None:
        """Leave the weights: they are where they were."""
