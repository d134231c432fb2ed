"""Load a folder's model that transcribes into a runner."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from headrace.protocol.config import EngineConfig
from headrace.protocol.logs.set_up import adopt_library_loggers
from headrace.workers.attention.cache_dtype import CacheDtype, choose_cache_dtype
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.errors import ModelUnsupported
from headrace.workers.load_options import choose_length, threads_of
from headrace.workers.native.compile_model import must_compile, release_weights
from headrace.workers.native.graph import NotStatic
from headrace.workers.native.library import (
    GROUP_TOKENS,
    choose_kernels,
    require_kernels,
    unsupported_reason,
)
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.native.weight_format import (
    WeightFormat,
    format_names,
    unused_quantization,
)
from headrace.workers.native.weight_memory import SharedWeights, fingerprint_weights
from headrace.workers.program_cache.cached_programs import ProgramCache
from headrace.workers.speech.backing import SpeechBacking, SpeechFacts
from headrace.workers.speech.make_runner import make_speech_runner
from headrace.workers.speech.native_backing import NativeSpeech
from headrace.workers.speech.passes import WhisperPasses
from headrace.workers.speech.plan_speech import causal_layers, plan_speech, source_layers
from headrace.workers.speech.runner import SpeechRunner
from headrace.workers.speech.self_check import logits_error, tolerance
from headrace.workers.speech.torch_backing import TorchSpeech
from headrace.workers.start_phases import StartPhases
from headrace.workers.torch_runner.loading import (
    checkpoint_dtype,
    choose_device,
    choose_dtype,
    read_weights,
    silence_transformers,
)

_POSITION_S = 0.02  # of Whisper's encoders: two frames of 10 ms


def load_speech_runner(
    model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    phases: StartPhases,
    shared_file: SharedFile | None = None,
    cache: ProgramCache | None = None,
) -> SpeechRunner:
    """Load a model folder. Raises ModelUnsupported, with one line, if it cannot be served.

    shared_file: the file in which the group's workers share packed weights. cache: keeps the
        program, if there is one, for later starts.
    """
    adopt_library_loggers()
    choose_kernels(config.cpu_kernels)
    device = choose_device(config.device)
    threads = threads_of(config, workers_on_host)
    torch.set_num_threads(threads)
    shared = None
    if shared_file is not None:
        shared = SharedWeights(shared_file, fingerprint_weights(model_path))
    with phases.phase("weights"):
        model, dtype = _load_model(model_path, config, device)
    log(f"{type(model).__name__} in {dtype} on {device}, {threads} threads")
    hook = AttentionHook(allows_both_ways=True, allows_sources=True)
    passes = WhisperPasses(model, hook)
    facts = read_facts(model_path, model)
    max_model_len = choose_length(config, facts.longest)
    with phases.phase("compile"), torch.inference_mode():
        passes.probe()
    cache_dtype = choose_cache_dtype(config.kv_cache_dtype, dtype)
    backing: SpeechBacking
    native = _compile(passes, hook, facts, config, dtype, cache_dtype, threads, log, shared, phases)
    if native is None:
        if config.quantization is not None:
            raise ModelUnsupported("quantization needs compiled kernels for this model")
        model.to(dtype)
        passes = WhisperPasses(model, hook)
        backing = TorchSpeech(passes, hook, facts, config.block_size, cache_dtype)
        with phases.phase("self-check"):
            is_rounded = cache_dtype != choose_cache_dtype("auto", dtype)
            is_exact = dtype == torch.float32 and not is_rounded
            error = logits_error(passes, backing, facts, config.block_size, is_exact)
            _require(error, dtype, is_rounded, model)
    else:
        backing = native
        if cache is not None:
            with phases.phase("compile"):
                _keep(cache, native.program, passes, facts)
        release_weights(model, native.program)
    with phases.phase("cache"):
        return make_speech_runner(
            backing, facts, config, causal_layers(hook), source_layers(hook), device,
            max_model_len, workers_on_host, cache_dtype,
        )  # fmt: skip


def _load_model(
    model_path: Path, config: EngineConfig, device: torch.device
) -> tuple[Any, torch.dtype]:
    """Return the model, and the dtype to compute in. A program rounds the numbers of products only:
    then the model is loaded as exact as its checkpoint is."""
    from transformers import WhisperForConditionalGeneration

    silence_transformers()
    values = json.loads((model_path / "config.json").read_text())
    own = checkpoint_dtype(model_path)
    values["dtype"] = str(own).removeprefix("torch.")
    dtype = choose_dtype(config.dtype, values, None, device)
    is_exact = device.type == "cpu" and unsupported_reason(dtype) is None
    stored = torch.float32 if is_exact and own != torch.bfloat16 else dtype
    model = read_weights(model_path, WhisperForConditionalGeneration, stored)
    model.eval()
    model.requires_grad_(False)
    return model.to(device), dtype


def _compile(
    passes: WhisperPasses,
    hook: AttentionHook,
    facts: SpeechFacts,
    config: EngineConfig,
    dtype: torch.dtype,
    cache_dtype: CacheDtype,
    threads: int,
    log: Callable[[str], None],
    shared: SharedWeights | None,
    phases: StartPhases,
) -> NativeSpeech | None:
    """Compile both halves and check the program; None if torch's operations must run the model.

    Raises ModelUnsupported if cpu_kernels rules torch out and there is no correct program.
    """
    reason = _unsupported_reason(passes, config, dtype)
    backing = None
    if not reason:
        try:
            with phases.phase("compile"):
                plan = plan_speech(passes, hook, list(facts.heads), config.quantization, dtype)
                compiled = CompiledProgram.of_plan(plan, threads, shared)
                compiled.plan = plan  # for the cache, until the weights are released
            backing = NativeSpeech(
                compiled, facts, block_size=config.block_size, cache_dtype=cache_dtype
            )
        except NotStatic as found:
            reason = f"{type(passes.model).__name__} has no fixed program: {found}"
    if backing is not None:
        formats = backing.program.formats
        is_rounded = formats != {WeightFormat.FLOAT} or cache_dtype != choose_cache_dtype(
            "auto", dtype
        )
        with phases.phase("self-check"):
            is_exact = dtype == torch.float32 and not is_rounded
            error = logits_error(passes, backing, facts, config.block_size, is_exact)
        if not error <= tolerance(dtype, is_rounded):
            backing, reason = None, f"compiled, its logits differ by {error:.2g} of their spread"
    if backing is None:
        if must_compile(config):
            raise ModelUnsupported(f"cpu_kernels is {config.cpu_kernels}, but {reason}")
        log(f"torch's operations: {reason}")
        return None
    size = f"{backing.weight_bytes / 2**20:.0f} MiB of weights"
    kinds = format_names(backing.program.formats, dtype)
    note = backing.program.memory.note
    log(f"compiled kernels for {require_kernels().name}, {size} in {kinds}, {note}")
    unused = unused_quantization(config.quantization, backing.program.formats)
    if unused is not None:
        log(unused)
    return backing


def _keep(
    cache: ProgramCache, compiled: CompiledProgram, passes: WhisperPasses, facts: SpeechFacts
) -> None:
    """Keep the program for later starts, with what these must know of the model."""
    assert compiled.plan is not None
    convolutions = {
        "model.encoder.conv1.weight": passes.first.weight,
        "model.encoder.conv2.weight": passes.second.weight,
    }
    cache.save(
        compiled.plan, passes.model, facts.vocab_size, facts.longest,
        {"speech": dataclasses.asdict(facts)}, convolutions,
    )  # fmt: skip


def _unsupported_reason(passes: WhisperPasses, config: EngineConfig, dtype: torch.dtype) -> str:
    if passes.device.type != "cpu":
        return "the compiled kernels run on CPUs only"
    if config.block_size % GROUP_TOKENS:
        return f"block_size is not a multiple of {GROUP_TOKENS}"
    return unsupported_reason(dtype) or ""


def _require(error: float, dtype: torch.dtype, is_rounded: bool, model: Any) -> None:
    if not error <= tolerance(dtype, is_rounded):
        raise ModelUnsupported(
            f"{type(model).__name__} writes different text here (logits differ by {error:.2g} of "
            "their spread)"
        )


def read_facts(model_path: Path, model: Any) -> SpeechFacts:
    """Return the sizes of a model, and which of its heads follow the speech."""
    config = model.config
    return SpeechFacts(
        vocab_size=config.vocab_size,
        mel_bins=config.num_mel_bins,
        frames=2 * config.max_source_positions,
        positions=config.max_source_positions,
        longest=config.max_target_positions,
        heads=_following_heads(model_path, config),
        size=config.d_model,
        position_s=_POSITION_S,
    )


def _following_heads(model_path: Path, config: Any) -> tuple[tuple[int, int], ...]:
    """Return the layers and heads whose attention follows the speech: those that the model's
    authors name, or else all of the decoder's later half."""
    path = model_path / "generation_config.json"
    named = json.loads(path.read_text()).get("alignment_heads") if path.is_file() else None
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    if named:
        pairs = tuple((int(layer), int(head)) for layer, head in named)
        if all(0 <= layer < layers and 0 <= head < heads for layer, head in pairs):
            return pairs
    return tuple((layer, head) for layer in range(layers // 2, layers) for head in range(heads))
