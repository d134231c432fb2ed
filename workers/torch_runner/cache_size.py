"""Choose the number of blocks of the paged cache."""

import logging
from collections.abc import Sequence

import torch

from headrace.protocol.common.host.limits import available_memory
from headrace.protocol.config import EngineConfig
from headrace.workers.attention.backend import KVLayerShape
from headrace.workers.attention.cache_dtype import CacheDtype, token_bytes
from headrace.workers.errors import ModelUnsupported

log = logging.getLogger("headrace.worker")

# Share of the available memory, once the model is loaded, for the caches of all workers.
_CPU_SHARE = 0.4
# Decodes gather the keys and values of one layer at a time, padded to at most twice their length:
# on a GPU, this many layers' share of the cache must stay free.
_GATHERED_LAYERS = 2


def choose_num_blocks(
    config: EngineConfig,
    layers: Sequence[KVLayerShape],
    cache_dtype: CacheDtype,
    device: torch.device,
    max_model_len: int,
    workers_on_host: int,
    activation_bytes: int = 0,
    gathers: bool = True,
    freed_bytes: int = 0,
) -> int:
    """Return the number of blocks that the cache gets.

    The cache's size is `kv_cache_bytes` if given; on a CPU, a share of the available memory divided
    among the host's workers, as if `freed_bytes` more were free; on a GPU, `memory_utilization` of
    its memory less what this worker already uses, less `activation_bytes` for a step, and less what
    decodes gather if the attention `gathers`. Workers on the same GPU cannot see each other: their
    `memory_utilization` must leave room for all of them. The cache never gets more than
    max_num_seqs requests of max_model_len fill.

    Raises ModelUnsupported if one request of max_model_len does not fit.
    """
    block_bytes = token_bytes(layers, cache_dtype) * config.block_size
    blocks_per_request = -(-max_model_len // config.block_size)
    free, by = config.kv_cache_bytes, ""
    if free is None and device.type == "cuda":
        free = _gpu_bytes(config, device, activation_bytes)
        if gathers:
            free = free * len(layers) // (len(layers) + _GATHERED_LAYERS)
    elif free is None:
        memory = available_memory()
        free = int((memory.amount + freed_bytes) * _CPU_SHARE) // max(1, workers_on_host)
        by = f" (by {memory.source})"
        log.info("K/V cache of at most %d MiB, by %s", free >> 20, memory.source)
    num_blocks = min(free // block_bytes, blocks_per_request * config.max_num_seqs)
    if num_blocks < blocks_per_request:
        raise ModelUnsupported(
            f"a K/V cache of {free} bytes{by} holds "
            f"{max(0, num_blocks) * config.block_size} tokens, fewer than one request of "
            f"max_model_len {max_model_len} ({blocks_per_request * block_bytes} bytes)"
        )
    return num_blocks


def _gpu_bytes(config: EngineConfig, device: torch.device, activation_bytes: int) -> int:
    """Return this worker's share of the GPU, less the memory in use and that of a step."""
    free, total = torch.cuda.mem_get_info(device)
    share = int(total * config.memory_utilization) - torch.cuda.memory_reserved(device)
    return max(0, min(share, free) - activation_bytes)
