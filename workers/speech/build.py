"""Build an engine for a model that transcribes from its folder and a group's configuration."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.protocol.common.speech.speech_types import is_speech_model
from headrace.protocol.config import EngineConfig
from headrace.workers.deferred_torch import defer_torch_modules
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import read_choices
from headrace.workers.load_options import choose_length
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.sequence.check_window import WindowChecks
from headrace.workers.speech.fake_runner import FakeSpeechRunner, read_sizes
from headrace.workers.start_phases import StartPhases

if TYPE_CHECKING:  # the fake engine runs without torch
    from headrace.workers.speech.runner import SpeechRunner


def is_speech_folder(model_path: Path) -> bool:
    """Return whether a folder's model transcribes."""
    path = model_path / "config.json"
    return path.is_file() and is_speech_model(json.loads(path.read_text()))


def build_speech_engine(
    model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    phases: StartPhases | None = None,
    shared_file: SharedFile | None = None,
    cache_folder: Path | None = None,
) -> Engine:
    """Load the model and build an engine for it. Raises ModelUnsupported if it cannot be served.

    The arguments are those of headrace.workers.build.build_engine.
    """
    runner = build_speech_runner(
        model_path, config, workers_on_host, log, phases, shared_file, cache_folder
    )
    facts = runner.facts
    if config.speculative_config is not None:
        log("speculative_config: not used, transcripts repeat nothing of their prompts")
    if config.enable_lora:
        log("enable_lora: not used, models that transcribe take no adapters here")
    log(
        f"K/V cache: {runner.num_blocks} blocks of {runner.block_size} tokens in "
        f"{runner.cache_dtype}, {runner.slots.num_slots} windows"
    )
    return assemble_engine(
        runner,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens or runner.default_step_tokens,
        enable_prefix_caching=False,  # what follows the same tokens depends on the window
        slots=runner.slots,
        windows=WindowChecks(facts.vocab_size, facts.mel_bins * facts.frames, facts.positions),
    )


def build_speech_runner(
    model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    phases: StartPhases | None = None,
    shared_file: SharedFile | None = None,
    cache_folder: Path | None = None,
) -> "SpeechRunner | FakeSpeechRunner":
    """Load the model into a runner; see `build_speech_engine`."""
    phases = phases or StartPhases()
    if config.engine == "fake":
        phases.end_imports()
        return _fake_runner(model_path, config)
    defer_torch_modules()
    from headrace.workers.native.library import choose_kernels
    from headrace.workers.program_cache.cached_programs import ProgramCache
    from headrace.workers.speech.load_cached import load_cached_speech

    phases.end_imports()
    choose_kernels(config.cpu_kernels)
    cache = ProgramCache(cache_folder, model_path, config, log)
    cached = load_cached_speech(
        cache, model_path, config, workers_on_host, log, phases, shared_file
    )
    if cached is not None:
        return cached
    with phases.phase("imports"):
        from headrace.workers.speech.load_speech import load_speech_runner

    return load_speech_runner(model_path, config, workers_on_host, log, phases, shared_file, cache)


def _fake_runner(model_path: Path, config: EngineConfig) -> FakeSpeechRunner:
    sizes = read_sizes(model_path)
    max_model_len = choose_length(config, sizes.longest)
    return FakeSpeechRunner(
        sizes,
        max_model_len=max_model_len,
        num_blocks=-(-max_model_len // config.block_size) * config.max_num_seqs,
        block_size=config.block_size,
        num_slots=config.max_num_seqs,
        step_s=config.fake_step_s,
        choices=read_choices(model_path, sizes.vocab_size),
    )
