"""Make a runner with the attention backend chosen for the model."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.common.context_length import switch_length
from headrace.workers.attention.cache_dtype import CacheDtype
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.engine.runner import Runner
from headrace.workers.recurrent.probe import StateShapes
from headrace.workers.torch_runner.choose_backend import BackendChoice
from headrace.workers.torch_runner.cuda_graphs import CudaGraphCapture
from headrace.workers.torch_runner.decode_graphs import choose_buckets
from headrace.workers.torch_runner.device_runner import DeviceRunner, try_capture_decodes
from headrace.workers.torch_runner.model_runner import ModelRunner

if TYPE_CHECKING:  # pydantic is not needed to run a model
    from headrace.workers.lora.slots import AdapterSlots

_WAVES = 2  # thread blocks for each multiprocessor that keep a GPU busy


def make_torch_runner(
    model: PreTrainedModel,
    hook: AttentionHook,
    choice: BackendChoice,
    *,
    max_model_len: int,
    num_blocks: int,
    speculates: bool = False,
    cache_dtype: CacheDtype | None = None,
    slots: "AdapterSlots | None" = None,
    state_shapes: StateShapes | None = None,
    num_state_slots: int = 0,
) -> ModelRunner:
    """Make a runner on torch's operations with an empty cache of num_blocks blocks.

    slots: for LoRA adapters; None: the model has none.
    speculates: chunks may hold drafts, for which steps cannot overlap.
    cache_dtype: of the cache; None: the model's.
    state_shapes: of the recurrent layers' states, for which num_state_slots are made.
    """
    config = model.config.get_text_config(decoder=True).to_dict()
    # Overlapping steps and captured graphs do not know which rows' frequencies have switched.
    steps_overlap = choice.overlaps and not speculates and switch_length(config) is None
    kind = DeviceRunner if steps_overlap else ModelRunner
    return kind(
        model,
        hook,
        max_model_len=max_model_len,
        num_blocks=num_blocks,
        block_size=choice.block_size,
        make_backend=choice.make,
        cache_dtype=cache_dtype,
        slots=slots,
        state_shapes=state_shapes,
        num_state_slots=num_state_slots,
    )


def capture_graphs(
    runner: Runner,
    hook: AttentionHook,
    choice: BackendChoice,
    log: Callable[[str], None],
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int | None = None,
) -> None:
    """Capture the decodes of a runner on a GPU as CUDA graphs, if its attention supports that."""
    if not isinstance(runner, DeviceRunner) or not choice.graphs:
        return
    if runner.num_state_slots:
        log("running decodes without CUDA graphs: the model has recurrent layers")
        return
    step_tokens = max_num_batched_tokens or runner.default_step_tokens
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    kv_heads = min(layer.kv_heads for layer in hook.layers)
    saturating_rows = -(-_WAVES * gpu.multi_processor_count // kv_heads)
    if not choice.plans_by_length:
        saturating_rows = 1
    max_rows = min(max_num_seqs, step_tokens)
    max_length = min(runner.max_model_len, runner.num_blocks * runner.block_size)
    buckets = choose_buckets(max_rows, max_length, saturating_rows)
    try_capture_decodes(runner, buckets, CudaGraphCapture(), log)
