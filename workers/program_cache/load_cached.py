"""Load a runner whose program is in the cache: without transformers, and without a check.

The check was made when the program was compiled. Everything that it depends on is in the program's
key.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from headrace.protocol.config import EngineConfig
from headrace.workers.attention.cache_dtype import choose_cache_dtype
from headrace.workers.load_options import choose_length, threads_of
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.runner import NativeRunner
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.program_cache.cached_programs import CachedProgram, ProgramCache, find_program
from headrace.workers.program_cache.compile_cached import compile_cached
from headrace.workers.start_phases import StartPhases
from headrace.workers.torch_runner.cache_size import choose_num_blocks


def load_cached_runner(
    cache: ProgramCache,
    model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    phases: StartPhases,
    shared_file: SharedFile | None = None,
    freed_bytes: int = 0,
) -> NativeRunner | None:
    """Return the runner; None if there is no cached program. See headrace.workers.load_runner.

    Raises ModelUnsupported if the options do not suit the model.
    """
    cached = find_program(cache, config, phases)
    if cached is None:
        return None
    threads = threads_of(config, workers_on_host)
    torch.set_num_threads(threads)
    length = choose_length(config, cached.longest)
    compiled = compile_cached(cache, cached, model_path, config, threads, log, phases, shared_file)
    if compiled is None:
        return None
    with phases.phase("cache"):
        return _make_runner(cached, compiled, config, length, workers_on_host, freed_bytes)


def _make_runner(
    cached: CachedProgram,
    compiled: CompiledProgram,
    config: EngineConfig,
    length: int,
    workers_on_host: int,
    freed_bytes: int,
) -> NativeRunner:
    device = torch.device("cpu")
    cache_dtype = choose_cache_dtype(config.kv_cache_dtype, compiled.dtype)
    num_blocks = choose_num_blocks(
        config, cached.plan.layers, cache_dtype, device, length, workers_on_host,
        freed_bytes=freed_bytes,
    )  # fmt: skip
    return NativeRunner(
        compiled,
        vocab_size=cached.vocab_rows,
        max_model_len=length,
        num_blocks=num_blocks,
        block_size=config.block_size,
        cache_dtype=cache_dtype,
        slots=compiled.new_adapter_slots(config.max_loras) if config.enable_lora else None,
    )
