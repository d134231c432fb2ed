"""Compile a model without its head: see headrace.workers.pooling.compiled_encoder."""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.config import EngineConfig
from headrace.workers.attention.hook import AttentionHook, attention_of
from headrace.workers.errors import ModelUnsupported
from headrace.workers.lora.layers import adaptable_layers
from headrace.workers.native.capturing.forward_pass import PassInputs, compute_hidden
from headrace.workers.native.graph import NotStatic
from headrace.workers.native.library import unsupported_reason
from headrace.workers.native.plan import plan_program
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.weight_memory import SharedWeights
from headrace.workers.pooling.compiled_encoder import CompiledEncoder
from headrace.workers.pooling.offset_attention import offset_attention
from headrace.workers.pooling.positions import Positions


@torch.no_grad()  # in inference mode, weights of GGUF files cannot be cut
def compile_encoder(
    model: PreTrainedModel,
    config: EngineConfig,
    threads: int,
    positions: Positions,
    dtype: torch.dtype,
    longest: int,
    shared: SharedWeights | None = None,
) -> tuple[CompiledEncoder | None, str]:
    """Return the compiled encoder; or None, and why torch's operations run the model.

    dtype: of products; embeddings, norms and sums keep the model's. longest: tokens of a text.
    shared: the weights that the group's workers share.

    The model's attention is as before afterwards.
    """
    reason = "the compiled kernels run on CPUs only"
    if model.device.type == "cpu":
        reason = unsupported_reason(dtype) or ""
    if reason:
        return None, reason
    hook = AttentionHook(allows_both_ways=True)
    with attention_of(model, hook.name), offset_attention(model, hook.name, longest):
        try:
            compiled = _compile(model, hook, config, threads, dtype, shared)
        except (NotStatic, ModelUnsupported) as error:
            return None, f"{type(model).__name__} has no fixed program: {error}"
        except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
            # A model's own code, which the probe and the capture call in an unusual way.
            shown = (str(error).splitlines() or [type(error).__name__])[0]
            return None, f"{type(model).__name__} cannot be captured: {shown}"
    slots = compiled.new_adapter_slots(config.max_loras) if config.enable_lora else None
    return CompiledEncoder(compiled, positions, slots), ""


def _compile(
    model: PreTrainedModel,
    hook: AttentionHook,
    config: EngineConfig,
    threads: int,
    dtype: torch.dtype,
    shared: SharedWeights | None,
) -> CompiledProgram:
    def run(token_ids: Tensor) -> Any:
        nothing = torch.zeros_like(token_ids)
        return compute_hidden(model, PassInputs(token_ids, nothing, nothing, nothing[0]))

    hook.probe(model, run)
    adaptable = dict(adaptable_layers(model)) if config.enable_lora else None
    plan = plan_program(
        model, hook, config.quantization, adaptable, forward=compute_hidden, dtype=dtype
    )
    compiled = CompiledProgram.of_plan(plan, threads, shared)
    compiled.plan = plan  # for the cache, until the weights are released
    return compiled
