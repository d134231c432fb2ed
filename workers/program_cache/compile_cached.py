"""Pack the weights of a program from the cache."""

from collections.abc import Callable
from pathlib import Path

import torch

from headrace.protocol.config import EngineConfig
from headrace.workers.native.library import require_kernels
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.native.weight_format import format_names, unused_quantization
from headrace.workers.native.weight_memory import SharedWeights, fingerprint_weights
from headrace.workers.program_cache.cached_programs import CachedProgram, ProgramCache
from headrace.workers.start_phases import StartPhases


def compile_cached(
    cache: ProgramCache,
    cached: CachedProgram,
    model_path: Path,
    config: EngineConfig,
    threads: int,
    log: Callable[[str], None],
    phases: StartPhases,
    shared_file: SharedFile | None,
) -> CompiledProgram | None:
    """Return the program; None if the model's files have changed meanwhile.

    log: receives lines for the operator. shared_file: the file in which the group's workers share
        packed weights.
    """
    with phases.phase("weights"), torch.inference_mode():
        shared = None
        if shared_file is not None:
            shared = SharedWeights(shared_file, fingerprint_weights(model_path))
        compiled = CompiledProgram.of_plan(cached.plan, threads, shared)
    if not cache.is_current:  # while weights were read from the files
        return None
    size = f"{compiled.weight_bytes / 2**20:.0f} MiB of weights"
    kinds = format_names(compiled.formats, compiled.dtype)
    log(f"{cached.model} in {compiled.dtype} on cpu, {threads} threads, program from the cache")
    log(f"compiled kernels for {require_kernels().name}, {size} in {kinds}, {compiled.memory.note}")
    unused = unused_quantization(config.quantization, compiled.formats)
    if unused is not None:
        log(unused)
    return compiled
