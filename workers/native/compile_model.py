"""Compile a loaded model for the CPU kernels, where they support it."""

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.config import EngineConfig
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.errors import ModelUnsupported
from headrace.workers.lora.layers import adaptable_layers
from headrace.workers.memory import free_memory
from headrace.workers.native.graph import NotStatic
from headrace.workers.native.library import GROUP_TOKENS, unsupported_reason
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.weight_memory import SharedWeights
from headrace.workers.quantized.parameter import PackedParameter


def compile_model(
    model: PreTrainedModel,
    hook: AttentionHook,
    config: EngineConfig,
    threads: int,
    shared: SharedWeights | None = None,
    *,
    is_recurrent: bool = False,
) -> tuple[CompiledProgram | None, str]:
    """Return the compiled program, or None and the reason why torch's operations run the model.

    shared: the weights that the group's workers share.
    is_recurrent: whether the model has layers with a state.

    Raises ModelUnsupported if cpu_kernels rules torch out and the kernels cannot run the model.
    """
    reason = _unsupported_reason(model, config)
    if not reason and is_recurrent:
        reason = f"{type(model).__name__} has recurrent layers"
    compiled = None
    if not reason:
        try:
            adaptable_modules = dict(adaptable_layers(model)) if config.enable_lora else None
            compiled = CompiledProgram(
                model, hook, threads, config.quantization, shared, adaptable_modules
            )
        except NotStatic as error:
            reason = f"{type(model).__name__} has no fixed program: {error}"
    if compiled is None and must_compile(config):
        raise ModelUnsupported(f"cpu_kernels is {config.cpu_kernels}, but {reason}")
    return compiled, reason


def must_compile(config: EngineConfig) -> bool:
    """Return whether the operator has ruled out torch's operations."""
    return config.cpu_kernels not in ("auto", "torch")


def _unsupported_reason(model: PreTrainedModel, config: EngineConfig) -> str:
    if model.device.type != "cpu":
        return "the compiled kernels run on CPUs only"
    if config.block_size % GROUP_TOKENS:
        return f"block_size is not a multiple of {GROUP_TOKENS}"
    return unsupported_reason(model.dtype) or ""


def release_weights(model: PreTrainedModel, compiled: CompiledProgram) -> None:
    """Free the model's weights that have been packed; keep those that the program reads."""
    compiled.plan = None
    for parameter in model.parameters():
        if isinstance(parameter, PackedParameter):
            parameter.release()
        elif not compiled.reads(parameter):
            parameter.data = torch.empty(0, dtype=parameter.dtype)
    free_memory()
