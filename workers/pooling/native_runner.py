"""Run a compiled model that pools."""

import torch

from headrace.workers.native.program import CompiledProgram
from headrace.workers.pooling.compiled_encoder import CompiledEncoder
from headrace.workers.pooling.encoder_runner import EncoderRunner

_STEP_TOKENS = 4096


def leave_cores_to_programs() -> None:
    """Keep torch to one thread: what is left for it beside a program is small, and its other
    threads would spin after each operation, on the cores of the program's threads."""
    torch.set_num_threads(1)


class NativePoolingRunner(EncoderRunner[CompiledEncoder]):
    """A program and what pools its vectors; see headrace.workers.pooling.runner.PoolingRunner."""

    default_step_tokens = _STEP_TOKENS

    @property
    def program(self) -> CompiledProgram:
        """The model's instructions and weights."""
        return self._encoder.compiled

    @property
    def weight_bytes(self) -> int:
        """Size of the packed weights, without small ones and those that are read unpacked."""
        return self._encoder.compiled.weight_bytes

    def offload_weights(self) -> None:
        """Leave the weights: they are in the host's memory."""

    def restore_weights(self) -> None:
        """Leave the weights: they are where they were."""
