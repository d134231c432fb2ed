"""Choose the number of blocks of the paged cache, and of slots for states beside it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

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
# States of recurrent layers for each request that may run: its own, and snapshots of prefixes.
_STATES_PER_SEQUENCE = 4
_MIN_STATE_SLOTS = 2  # of one running sequence, and one snapshot
_MAX_EMPTY_BLOCKS = 1 << 16  # of models without attention, whose blocks hold nothing


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """What the caches of a model hold: blocks of keys and values, slots of recurrent states."""

    num_blocks: int
    num_state_slots: int = 0


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
    """Return the number of blocks of a model without recurrent layers (see choose_cache_sizes)."""
    return choose_cache_sizes(
        config,
        layers,
        cache_dtype,
        device,
        max_model_len,
        workers_on_host,
        activation_bytes,
        gathers,
        freed_bytes,
    ).num_blocks


def choose_cache_sizes(
    config: EngineConfig,
    layers: Sequence[KVLayerShape],
    cache_dtype: CacheDtype,
    device: torch.device,
    max_model_len: int,
    workers_on_host: int,
    activation_bytes: int = 0,
    gathers: bool = True,
    freed_bytes: int = 0,
    state_bytes: int = 0,
) -> CacheSizes:
    """Return the number of blocks that the cache gets, and of slots for states of `state_bytes`.

    The caches' size is `kv_cache_bytes` if given; on a CPU, a share of the available memory divided
    among the host's workers, as if `freed_bytes` more were free; on a GPU, `memory_utilization` of
    its memory less what this worker already uses, less `activation_bytes` for a step, and less what
    decodes gather if the attention `gathers`. Workers on the same GPU cannot see each other: their
    `memory_utilization` must leave room for all of them. The cache never gets more than
    max_num_seqs requests of max_model_len fill. Of what there is beside the blocks of one request,
    slots get at most half, or all if no layer has keys.

    Raises ModelUnsupported if one request of max_model_len does not fit.
    """
    block_bytes = token_bytes(layers, cache_dtype) * config.block_size
    blocks_per_request = -(-max_model_len // config.block_size)
    free, by = _cache_bytes(
        config, len(layers), device, workers_on_host, activation_bytes, gathers, freed_bytes
    )
    request_bytes = blocks_per_request * block_bytes
    slots = _num_state_slots(config, free - request_bytes, state_bytes, bool(layers))
    num_blocks = blocks_per_request * config.max_num_seqs
    if block_bytes:
        num_blocks = min((free - slots * state_bytes) // block_bytes, num_blocks)
    else:
        num_blocks = min(num_blocks, max(blocks_per_request, _MAX_EMPTY_BLOCKS))
    if num_blocks < blocks_per_request:
        raise ModelUnsupported(
            f"a K/V cache of {free} bytes{by} holds "
            f"{max(0, num_blocks) * config.block_size} tokens, fewer than one request of "
            f"max_model_len {max_model_len} ({request_bytes} bytes)"
        )
    if state_bytes and slots < _MIN_STATE_SLOTS:
        raise ModelUnsupported(
            f"a cache of {free} bytes{by} holds one request of max_model_len {max_model_len} "
            f"({request_bytes} bytes) and {slots} states of recurrent layers ({state_bytes} bytes "
            f"each), fewer than {_MIN_STATE_SLOTS}"
        )
    return CacheSizes(num_blocks, slots)


def _num_state_slots(config: EngineConfig, free: int, state_bytes: int, has_attention: bool) -> int:
    """Return how many slots for states fit into what is free beside one request's blocks."""
    if not state_bytes:
        return 0
    share = free // 2 if has_attention and free > 2 * _MIN_STATE_SLOTS * state_bytes else free
    slots = max(0, min(share // state_bytes, config.max_num_seqs * _STATES_PER_SEQUENCE))
    size = slots * state_bytes / 2**20
    log.info("states of recurrent layers: %.1f KiB each, %.0f MiB in all", state_bytes / 1024, size)
    return slots


def _cache_bytes(
    config: EngineConfig,
    num_layers: int,
    device: torch.device,
    workers_on_host: int,
    activation_bytes: int,
    gathers: bool,
    freed_bytes: int,
) -> tuple[int, str]:
    """Return the bytes for the caches, and by what they are limited, for messages."""
    if config.kv_cache_bytes is not None:
        return config.kv_cache_bytes, ""
    if device.type == "cuda":
        free = _gpu_bytes(config, device, activation_bytes)
        if gathers and num_layers:
            free = free * num_layers // (num_layers + _GATHERED_LAYERS)
        return free, ""
    memory = available_memory()
    free = int((memory.amount + freed_bytes) * _CPU_SHARE) // max(1, workers_on_host)
    log.info("K/V cache of at most %d MiB, by %s", free >> 20, memory.source)
    return free, f" (by {memory.source})"


def _gpu_bytes(config: EngineConfig, device: torch.device, activation_bytes: int) -> int:
    """Return this worker's share of the GPU, less the memory in use and that of a step."""
    free, total = torch.cuda.mem_get_info(device)
    share = int(total * config.memory_utilization) - torch.cuda.memory_reserved(device)
    return max(0, min(share, free) - activation_bytes)
