"""Build an engine from a model folder and a group's configuration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer

from headrace.protocol.common.grammar_compiler import load_tokenizer
from headrace.protocol.config import EngineConfig
from headrace.protocol.text import TextInfo
from headrace.workers.deferred_torch import defer_torch_modules
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner, read_choices, read_model_size
from headrace.workers.engine.replica_engine import ReplicaEngine
from headrace.workers.engine.runner import Runner
from headrace.workers.errors import ModelUnsupported
from headrace.workers.grammars.grammar_manager import GrammarManager
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.pooling.build import build_pooling_engine, build_pooling_runner
from headrace.workers.speech.build import (
    build_speech_engine,
    build_speech_runner,
    is_speech_folder,
)
from headrace.workers.start_phases import StartPhases

_FAKE_BYTES_PER_TOKEN = 1024


def build_replica(
    group_model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    text_path: Path | None = None,
    phases: StartPhases | None = None,
    shared_file: SharedFile | None = None,
    freed_bytes: int = 0,
    cache_folder: Path | None = None,
) -> ReplicaEngine:
    """Load the model and build an engine for what it does; see `build_engine`."""
    if config.runner == "pooling":
        return build_pooling_engine(
            group_model_path, config, workers_on_host, log, phases, shared_file, cache_folder
        )
    if is_speech_folder(group_model_path):
        return build_speech_engine(
            group_model_path, config, workers_on_host, log, phases, shared_file, cache_folder
        )
    return build_engine(
        group_model_path, config, workers_on_host, log, text_path, phases, shared_file,
        freed_bytes, cache_folder,
    )  # fmt: skip


def reload_runner(
    group_model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    phases: StartPhases | None = None,
    shared_file: SharedFile | None = None,
    cache_folder: Path | None = None,
) -> Any:
    """Load the model again into a runner of the kind that its engine has; see `build_engine`."""
    if config.runner == "pooling":
        return build_pooling_runner(
            group_model_path, config, workers_on_host, log, phases, shared_file, cache_folder
        )
    if is_speech_folder(group_model_path):
        return build_speech_runner(
            group_model_path, config, workers_on_host, log, phases, shared_file, cache_folder
        )
    return build_runner(
        group_model_path, config, workers_on_host, log, phases, shared_file,
        cache_folder=cache_folder,
    )  # fmt: skip


def build_engine(
    group_model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    text_path: Path | None = None,
    phases: StartPhases | None = None,
    shared_file: SharedFile | None = None,
    freed_bytes: int = 0,
    cache_folder: Path | None = None,
) -> Engine:
    """Load the model and build an engine for it.

    workers_on_host: the number of workers that share this machine's (or this GPU's) memory.
    log: receives lines for the operator.
    text_path: text folder with the tokenizer, see headrace.protocol.text; None: no grammars.
    phases: measures the time of each phase.
    shared_file: the file in which the group's workers share packed weights.
    freed_bytes: memory that the worker which this one succeeds will give back.
    cache_folder: where compiled programs are kept for later starts; None: nowhere.

    Raises ModelUnsupported if the model cannot be served.
    """
    phases = phases or StartPhases()
    runner = build_runner(
        group_model_path, config, workers_on_host, log, phases, shared_file, freed_bytes,
        cache_folder,
    )  # fmt: skip
    numbers = f" in {runner.cache_dtype}" if runner.cache_dtype else ""
    log(f"K/V cache: {runner.num_blocks} blocks of {runner.block_size} tokens{numbers}")
    if runner.num_state_slots:
        log(f"cache of recurrent layers' states: {runner.num_state_slots} slots")
        if config.speculative_config is not None:
            log("speculative_config: not used, a recurrent layer's state cannot take drafts back")
    return assemble_engine(
        runner,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens or runner.default_step_tokens,
        enable_prefix_caching=config.enable_prefix_caching,
        speculative_config=config.speculative_config,
        adapters=runner.new_adapters(config.max_lora_rank) if config.enable_lora else None,
        max_loras=config.max_loras,
        grammars=None if text_path is None else _grammars(text_path, runner.vocab_size),
    )


def build_runner(
    group_model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    phases: StartPhases | None = None,
    shared_file: SharedFile | None = None,
    freed_bytes: int = 0,
    cache_folder: Path | None = None,
) -> Runner:
    """Load the model and build a runner for it; see `build_engine`."""
    phases = phases or StartPhases()
    if config.engine == "fake":
        phases.end_imports()
        return _fake_runner(group_model_path, config)
    # These import torch, which takes a second and is not needed by the fake engine; the last one
    # imports transformers too, which takes seconds.
    defer_torch_modules()
    from headrace.workers.native.library import choose_kernels
    from headrace.workers.program_cache.cached_programs import ProgramCache
    from headrace.workers.program_cache.load_cached import load_cached_runner

    phases.end_imports()
    choose_kernels(config.cpu_kernels)
    cache = ProgramCache(cache_folder, group_model_path, config, log)
    cached = load_cached_runner(
        cache, group_model_path, config, workers_on_host, log, phases, shared_file, freed_bytes
    )
    if cached is not None:
        return cached
    with phases.phase("imports"):
        from headrace.workers.load_runner import load_runner

    return load_runner(
        group_model_path, config, workers_on_host, log, phases, shared_file, freed_bytes, cache
    )


def _grammars(text_path: Path, vocab_size: int) -> GrammarManager:
    def load() -> LLTokenizer:
        path = TextInfo.tokenizer_file(text_path)
        return load_tokenizer(path, vocab_size, TextInfo.load(text_path).eos_token_ids)

    return GrammarManager(load, vocab_size)


def _fake_runner(model_path: Path, config: EngineConfig) -> FakeRunner:
    vocab_size, model_len = read_model_size(model_path)
    max_model_len = config.max_model_len or model_len
    if max_model_len > model_len:
        raise ModelUnsupported(f"max_model_len {max_model_len} exceeds the model's {model_len}")
    blocks_per_sequence = -(-max_model_len // config.block_size)
    num_blocks = blocks_per_sequence * config.max_num_seqs
    if config.kv_cache_bytes is not None:
        num_blocks = config.kv_cache_bytes // (_FAKE_BYTES_PER_TOKEN * config.block_size)
    return FakeRunner(
        vocab_size=vocab_size,
        max_model_len=max_model_len,
        num_blocks=max(num_blocks, blocks_per_sequence),
        block_size=config.block_size,
        step_s=config.fake_step_s,
        choices=read_choices(model_path, vocab_size),
    )
