"""Load an embedder whose program is in the cache: without transformers, and without a check.

Classifiers are loaded whole in any case: their heads are transformers' own.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from headrace.protocol.common.pooling.json_files import PoolingFilesError
from headrace.protocol.common.pooling.model_setup import PoolingSetup, choose_runner, read_setup
from headrace.protocol.common.pooling.pooler_overrides import (
    longest_embedded,
    with_pooler_config,
)
from headrace.protocol.config import EngineConfig
from headrace.workers.errors import ModelUnsupported
from headrace.workers.load_options import threads_of
from headrace.workers.native.library import require_kernels
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.native.weight_format import format_names
from headrace.workers.native.weight_memory import SharedWeights, fingerprint_weights
from headrace.workers.pooling.compiled_encoder import CompiledEncoder
from headrace.workers.pooling.native_runner import NativePoolingRunner, leave_cores_to_programs
from headrace.workers.pooling.pooler import pooler_of
from headrace.workers.pooling.positions import positions_of
from headrace.workers.pooling.runner import TextLimits
from headrace.workers.program_cache.cached_programs import CachedProgram, ProgramCache, find_program
from headrace.workers.start_phases import StartPhases


def load_cached_encoder(
    cache: ProgramCache,
    model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    phases: StartPhases,
    shared_file: SharedFile | None = None,
) -> NativePoolingRunner | None:
    """Return the runner; None if there is no cached program. See headrace.workers.pooling.build.

    Raises ModelUnsupported if the options do not suit the model.
    """
    cached = find_program(cache, config, phases)
    if cached is None:
        return None
    threads = threads_of(config, workers_on_host)
    torch.set_num_threads(threads)
    runner = _runner_of(cached, model_path, config, threads, phases, shared_file)
    if runner is None or not cache.is_current:  # while weights were read from the files
        return None
    leave_cores_to_programs()
    program = runner.program
    kinds = format_names(program.formats, program.dtype)
    log(f"{cached.model} in {program.dtype} on cpu, {threads} threads, program from the cache")
    size = f"{program.weight_bytes / 2**20:.0f} MiB of weights"
    log(f"compiled kernels for {require_kernels().name}, {size} in {kinds}")
    if config.quantization:
        cosine = cached.facts["cosine"]
        log(f"{config.quantization}: cosine to the exact model's vectors {cosine:.5f}")
    return runner


def limits_of(
    setup: PoolingSetup, config: EngineConfig, vocab_size: int, num_token_types: int
) -> TextLimits:
    """Return what a model takes. Raises ModelUnsupported if the options do not suit it."""
    length = config.max_model_len or setup.own_length
    if length > setup.longest:
        raise ModelUnsupported(f"max_model_len is {length}, but the model takes {setup.longest}")
    try:
        longest = longest_embedded(config.pooler_config, length)
    except PoolingFilesError as error:
        raise ModelUnsupported(str(error)) from error
    return TextLimits(
        tasks=setup.tasks,
        vocab_size=vocab_size,
        max_model_len=length,
        size=setup.size,
        dimensions=setup.dimensions,
        num_token_types=num_token_types,
        max_embed_len=longest,
        normalizes=setup.modules.normalizes,
    )


def setup_of(model_path: Path, config: EngineConfig, values: Mapping[str, Any]) -> PoolingSetup:
    """Return how a model pools. values: its configuration, as transformers completes it.

    Raises ModelUnsupported if it cannot, or not as its operator says.
    """
    try:
        convert = choose_runner(model_path, "pooling", config.convert)[1]
        return with_pooler_config(read_setup(model_path, convert, values), config.pooler_config)
    except PoolingFilesError as error:
        raise ModelUnsupported(str(error)) from error


def _runner_of(
    cached: CachedProgram,
    model_path: Path,
    config: EngineConfig,
    threads: int,
    phases: StartPhases,
    shared_file: SharedFile | None,
) -> NativePoolingRunner | None:
    facts = cached.facts
    setup = setup_of(model_path, config, facts["config"])
    limits = limits_of(setup, config, cached.vocab_rows, facts["num_token_types"])
    if limits.max_model_len > facts["max_len"]:  # tables of a program may be of this length
        return None
    padding: int | None = facts["padding"]
    with phases.phase("weights"), torch.inference_mode():
        shared = None
        if shared_file is not None:
            shared = SharedWeights(shared_file, fingerprint_weights(model_path))
        compiled = CompiledProgram.of_plan(cached.plan, threads, shared)
        pooler = pooler_of(setup, torch.device("cpu"))
    slots = compiled.new_adapter_slots(config.max_loras) if config.enable_lora else None
    encoder = CompiledEncoder(compiled, lambda text: positions_of(text, padding), slots)
    return NativePoolingRunner(encoder, pooler, limits)
