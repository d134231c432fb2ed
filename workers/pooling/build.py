"""Build an engine for a model that pools from its folder and a group's configuration."""

from collections.abc import Callable
from pathlib import Path

from headrace.protocol.common.pooling.json_files import PoolingFilesError, read_object
from headrace.protocol.common.pooling.model_setup import read_setup
from headrace.protocol.common.pooling.pooler_overrides import (
    longest_embedded,
    with_pooler_config,
)
from headrace.protocol.config import EngineConfig
from headrace.workers.deferred_torch import defer_torch_modules
from headrace.workers.errors import ModelUnsupported
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.pooling.engine import PoolingEngine
from headrace.workers.pooling.fake_runner import FakePoolingRunner
from headrace.workers.pooling.runner import PoolingRunner, TextLimits
from headrace.workers.start_phases import StartPhases


def build_pooling_engine(
    model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    phases: StartPhases | None = None,
    shared_file: SharedFile | None = None,
    cache_folder: Path | None = None,
) -> PoolingEngine:
    """Load the model and build an engine for it. Raises ModelUnsupported if it cannot be served.

    workers_on_host: the number of workers that share this machine. log: receives lines for the
        operator. phases: measures the time of each phase. shared_file: the file in which the
        group's workers share packed weights. cache_folder: where compiled programs are kept for
        later starts; None: nowhere.
    """
    runner = build_pooling_runner(
        model_path, config, workers_on_host, log, phases, shared_file, cache_folder
    )
    does = ", ".join(runner.limits.tasks)
    log(f"pools texts of up to {runner.limits.max_model_len} tokens: {does}")
    return PoolingEngine(
        runner,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens or runner.default_step_tokens,
        adapters=runner.new_adapters(config.max_lora_rank) if config.enable_lora else None,
    )


def build_pooling_runner(
    model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    phases: StartPhases | None = None,
    shared_file: SharedFile | None = None,
    cache_folder: Path | None = None,
) -> PoolingRunner:
    """Load the model into a runner; see `build_pooling_engine`."""
    phases = phases or StartPhases()
    if config.engine == "fake":
        phases.end_imports()
        return FakePoolingRunner(_fake_limits(model_path, config), config.fake_step_s)
    # These import torch, which takes a second; the last one imports transformers, which takes more.
    defer_torch_modules()
    from headrace.workers.native.library import choose_kernels
    from headrace.workers.pooling.load_cached import load_cached_encoder
    from headrace.workers.program_cache.cached_programs import ProgramCache

    phases.end_imports()
    choose_kernels(config.cpu_kernels)
    cache = ProgramCache(cache_folder, model_path, config, log)
    cached = load_cached_encoder(
        cache, model_path, config, workers_on_host, log, phases, shared_file
    )
    if cached is not None:
        return cached
    with phases.phase("imports"):
        from headrace.workers.pooling.load_encoder import load_pooling_runner

    return load_pooling_runner(model_path, config, workers_on_host, log, phases, shared_file, cache)


def _fake_limits(model_path: Path, config: EngineConfig) -> TextLimits:
    """Return what a model would take, by its files alone."""
    try:
        values = read_object(model_path / "config.json")
        setup = with_pooler_config(
            read_setup(model_path, config.convert, values), config.pooler_config
        )
        vocab_size = int((values.get("text_config") or values)["vocab_size"])
    except (PoolingFilesError, KeyError, TypeError, ValueError) as error:
        raise ModelUnsupported(f"{model_path}: {error}") from error
    return TextLimits(
        tasks=setup.tasks,
        vocab_size=vocab_size,
        max_model_len=config.max_model_len or setup.own_length,
        size=setup.size,
        dimensions=setup.dimensions,
        num_token_types=values.get("type_vocab_size") or 1,
        max_embed_len=longest_embedded(
            config.pooler_config, config.max_model_len or setup.own_length
        ),
    )
