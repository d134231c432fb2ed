"""Measure the GPU memory that the largest possible steps need in addition to weights and cache."""

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.config import EngineConfig
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.attention.backend import BackendFactory
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.attention.sdpa import SdpaBackend
from headrace.workers.engine.scheduler import MAX_PROMPT_LOGPROBS
from headrace.workers.recurrent.probe import StateShapes
from headrace.workers.sequence.sequence import Chunk, Sequence
from headrace.workers.sequence.state_use import StateUse
from headrace.workers.torch_runner.model_runner import ModelRunner

_STATE = StateUse(0)  # of all sequences: only sizes matter here


def measure_step_bytes(
    model: PreTrainedModel,
    hook: AttentionHook,
    config: EngineConfig,
    max_model_len: int,
    make_backend: BackendFactory = SdpaBackend,
    state_shapes: StateShapes | None = None,
) -> int:
    """Return the peak memory in bytes that a step allocates on the model's GPU, without the cache.

    The keys and values that decodes gather are not included: they grow with the cache.
    """
    runner = ModelRunner(
        model,
        hook,
        max_model_len=max_model_len,
        num_blocks=1,
        block_size=config.block_size,
        make_backend=make_backend,
        state_shapes=state_shapes,
        num_state_slots=1,
    )
    step_tokens = config.max_num_batched_tokens or runner.default_step_tokens
    before = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    runner.run(largest_prefill(step_tokens, max_model_len, config.block_size))
    speculation = None if state_shapes else config.speculative_config
    rows_per_sequence = 1 + (speculation.num_speculative_tokens if speculation else 0)
    runner.run(largest_sampling(min(config.max_num_seqs * rows_per_sequence, step_tokens)))
    peak = torch.cuda.max_memory_allocated(model.device) - before
    torch.cuda.empty_cache()
    return peak


def largest_prefill(step_tokens: int, max_model_len: int, block_size: int) -> list[Chunk]:
    """Return the last chunks of the longest prompts, with the most prompt log probabilities."""
    chunks: list[Chunk] = []
    while step_tokens > 0:
        count = min(step_tokens, max_model_len)
        start = max_model_len - count
        logprobs = 0 if chunks else min(MAX_PROMPT_LOGPROBS, count - 1)
        sequence = _sequence(max_model_len, -(-max_model_len // block_size))
        logprob_positions = range(start, start + logprobs)
        chunks.append(Chunk(sequence, start, count, True, logprob_positions, state=_STATE))
        step_tokens -= count
    return chunks


def largest_sampling(num_rows: int) -> list[Chunk]:
    """Return this number of decodes, each sampled from the whole distribution."""
    return [Chunk(_sequence(2, 2), 1, 1, True, state=_STATE) for _ in range(num_rows)]


def _sequence(length: int, num_blocks: int) -> Sequence:
    """Return a sequence whose blocks are all the first one: only sizes matter here."""
    params = SamplingParams(seed=0, max_tokens=1, top_p=0.9, prompt_logprobs=0)
    sequence = Sequence.of(Generate("largest-step", (0,) * length, params), 0, 0.0)
    sequence.blocks = [0] * num_blocks
    return sequence
