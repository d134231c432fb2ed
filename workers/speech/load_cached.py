"""Load a program that transcribes from the cache: without transformers, and without a check."""

from collections.abc import Callable
from pathlib import Path

import torch

from headrace.protocol.config import EngineConfig
from headrace.workers.attention.cache_dtype import choose_cache_dtype
from headrace.workers.load_options import choose_length, threads_of
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.program_cache.cached_programs import CachedProgram, ProgramCache, find_program
from headrace.workers.program_cache.compile_cached import compile_cached
from headrace.workers.speech.backing import SpeechFacts
from headrace.workers.speech.make_runner import make_speech_runner
from headrace.workers.speech.native_backing import NativeSpeech
from headrace.workers.speech.runner import SpeechRunner
from headrace.workers.start_phases import StartPhases


def load_cached_speech(
    cache: ProgramCache,
    model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    phases: StartPhases,
    shared_file: SharedFile | None = None,
) -> SpeechRunner | None:
    """Return the runner; None if there is no cached program.

    Raises ModelUnsupported if the options do not suit the model.
    """
    cached = find_program(cache, config, phases)
    if cached is None:
        return None
    facts = _facts_of(cached)
    threads = threads_of(config, workers_on_host)
    torch.set_num_threads(threads)
    length = choose_length(config, facts.longest)
    compiled = compile_cached(cache, cached, model_path, config, threads, log, phases, shared_file)
    if compiled is None:
        return None
    cache_dtype = choose_cache_dtype(config.kv_cache_dtype, compiled.dtype)
    with phases.phase("cache"):
        backing = NativeSpeech(
            compiled, facts, block_size=config.block_size, cache_dtype=cache_dtype
        )
        return make_speech_runner(
            backing, facts, config, compiled.layers, compiled.source_layers, torch.device("cpu"),
            length, workers_on_host, cache_dtype,
        )  # fmt: skip


def _facts_of(cached: CachedProgram) -> SpeechFacts:
    facts = dict(cached.facts["speech"])
    facts["heads"] = tuple((layer, head) for layer, head in facts["heads"])
    return SpeechFacts(**facts)
