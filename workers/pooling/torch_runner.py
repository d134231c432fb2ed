"""Run a transformers model that pools on torch's operations."""

from itertools import chain

from headrace.workers.pooling.encoder import Encoder
from headrace.workers.pooling.encoder_runner import EncoderRunner
from headrace.workers.pooling.runner import TextLimits, TextPooler

_CPU_STEP_TOKENS = 4096
_GPU_STEP_TOKENS = 32768


class TorchPoolingRunner(EncoderRunner[Encoder]):
    """A model and what pools its vectors; see headrace.workers.pooling.runner.PoolingRunner."""

    def __init__(self, encoder: Encoder, pooler: TextPooler, limits: TextLimits) -> None:
        super().__init__(encoder, pooler, limits)
        self._device = encoder.model.device
        on_cpu = self._device.type == "cpu"
        self.default_step_tokens = _CPU_STEP_TOKENS if on_cpu else _GPU_STEP_TOKENS
        self._is_offloaded = False

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
