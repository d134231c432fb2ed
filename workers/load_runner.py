"""Load a model folder into a runner and check that it computes what transformers computes."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.config import EngineConfig
from headrace.protocol.logs.set_up import adopt_library_loggers
from headrace.workers.attention.cache_dtype import CacheDtype, choose_cache_dtype
from headrace.workers.attention.hook import AttentionHook, vocab_rows
from headrace.workers.errors import ModelUnsupported
from headrace.workers.linear.linears import prepare_linears
from headrace.workers.linear.rounded_weights import has_unrounded_linears, weights_rounded
from headrace.workers.load_options import choose_length, threads_of
from headrace.workers.lora.slots import AdapterSlots
from headrace.workers.memory import free_memory
from headrace.workers.native.adapter_slots import NativeAdapterSlots
from headrace.workers.native.compile_model import compile_model, must_compile, release_weights
from headrace.workers.native.library import require_kernels
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.runner import NativeRunner
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.native.weight_format import (
    WeightFormat,
    format_names,
    unused_quantization,
)
from headrace.workers.native.weight_memory import SharedWeights, fingerprint_weights
from headrace.workers.program_cache.cached_programs import ProgramCache
from headrace.workers.quantized.parameter import expand_parameters, products_skipped
from headrace.workers.recurrent.options import check_options
from headrace.workers.recurrent.probe import StateShapes, in_float32, probe_layers, state_bytes
from headrace.workers.start_phases import StartPhases
from headrace.workers.torch_runner.cache_size import CacheSizes, choose_cache_sizes
from headrace.workers.torch_runner.choose_backend import BackendChoice, choose_backend
from headrace.workers.torch_runner.loading import (
    choose_device,
    is_slow_on_torch,
    load_model,
    model_length,
    to_float32,
)
from headrace.workers.torch_runner.make_runner import capture_graphs, make_torch_runner
from headrace.workers.torch_runner.model_runner import ModelRunner
from headrace.workers.torch_runner.self_check import CHECKED_STATE_SLOTS, check_model
from headrace.workers.torch_runner.step_memory import measure_step_bytes

SLOW_QUANTIZATION = (
    "--quantization %s is slow here, many times slower than with compiled kernels and mostly "
    "slower than without it: %s"
)
_log = logging.getLogger("headrace.worker")

LoadedRunner = ModelRunner | NativeRunner


class RunnerFactory(Protocol):
    """Makes a runner with caches of these sizes."""

    def __call__(self, num_blocks: int, num_state_slots: int = ...) -> LoadedRunner: ...


def load_runner(
    model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    phases: StartPhases,
    shared_file: SharedFile | None = None,
    freed_bytes: int = 0,
    cache: ProgramCache | None = None,
) -> LoadedRunner:
    """Load a model folder and check its outputs against transformers'.

    shared_file: the file in which the group's workers share packed weights.
    cache: keeps the program, if there is one, for later starts.

    Raises ModelUnsupported, with one line for the operator, if the model cannot be served.
    """
    adopt_library_loggers()  # transformers, imported by now, has a handler of its own
    device = _device_for(config)
    threads = threads_of(config, workers_on_host)
    torch.set_num_threads(threads)
    shared = (
        None if shared_file is None else SharedWeights(shared_file, fingerprint_weights(model_path))
    )
    with phases.phase("weights"):
        model = load_model(model_path, config.dtype, device, config.trust_remote_code, log)
        # An operator who asks for float32 wants no rows rounded to 8 bits, as blocks have them.
        if config.dtype == "float32" and config.quantization is None:
            _expand(model, log, keeps_floats=True)
    if shared is not None and fingerprint_weights(model_path) != shared.fingerprint:
        shared = None  # changed meanwhile: the weights that were read match neither fingerprint
    log(f"{type(model).__name__} in {model.dtype} on {device}, {threads} threads")
    hook = AttentionHook()
    with phases.phase("compile"), torch.inference_mode(), products_skipped():
        states = probe_layers(model, hook)  # before the length: what it refuses is the obstacle
    if states:
        check_options(config)
    longest = model_length(model, config.max_model_len)
    max_model_len = choose_length(config, longest)
    slots: AdapterSlots | None = None
    compiled = _compile(
        model, hook, config, max_model_len, threads, log, phases, shared, is_recurrent=bool(states)
    )
    if compiled is None:
        with phases.phase("compile"):
            states = _prepare_for_torch(model, model_path, config, states, log)
            slots = AdapterSlots.of(model, config.max_loras) if config.enable_lora else None
    cache_dtype = choose_cache_dtype(config.kv_cache_dtype, model.dtype)
    choice = choose_backend(hook, model.dtype, device, config.block_size, cache_dtype=cache_dtype)
    if choice.block_size != config.block_size:
        log(f"{choice.name}: block size {choice.block_size} tokens")
        config = config.model_copy(update={"block_size": choice.block_size})
    make_runner = _runner_factory(
        model, hook, choice, compiled, config, max_model_len, cache_dtype, slots, states
    )
    if compiled is None:
        is_rounded = _is_rounded(cache_dtype, model)
        with phases.phase("self-check"):
            check_model(model, make_runner, max_model_len, config.block_size, is_rounded, hook)
    else:
        if cache is not None and compiled.plan is not None:
            with phases.phase("compile"):
                cache.save(compiled.plan, model, vocab_rows(model), longest)
        release_weights(model, compiled)
    with phases.phase("cache"):
        sizes = _choose_cache_sizes(
            model, hook, choice, config, max_model_len, workers_on_host, slots, freed_bytes, states
        )
        runner = make_runner(sizes.num_blocks, sizes.num_state_slots)
    if not config.enforce_eager:
        limits = config.model_dump(include={"max_num_seqs", "max_num_batched_tokens"})
        with phases.phase("compile"):
            capture_graphs(runner, hook, choice, log, **limits)
    return runner


def _device_for(config: EngineConfig) -> torch.device:
    device = choose_device(config.device)
    if device.type != "cpu" and config.kv_cache_dtype != "auto":
        raise ModelUnsupported("kv_cache_dtype is for CPUs: leave it out, or use device cpu")
    return device


def _expand(
    model: PreTrainedModel, log: Callable[[str], None], *, keeps_floats: bool = False
) -> None:
    num_expanded, growth = expand_parameters(model, keeps_floats=keeps_floats)
    if num_expanded:
        size = f"{growth:.1f} times as large"
        log(f"{num_expanded} quantized weights expanded to {model.dtype}, {size}")


def _prepare_for_torch(
    model: PreTrainedModel,
    model_path: Path,
    config: EngineConfig,
    states: StateShapes,
    log: Callable[[str], None],
) -> StateShapes:
    """Change the model's weights to what torch's operations are fast with; return its states'
    shapes after that."""
    _expand(model, log)
    if is_slow_on_torch(model_path, config.dtype, model.dtype, model.device):
        log("float32 instead, which is faster without compiled kernels")
        to_float32(model)
        states = in_float32(states)
    prepare_linears(model, config, log)
    return states


def _compile(
    model: PreTrainedModel,
    hook: AttentionHook,
    config: EngineConfig,
    max_model_len: int,
    threads: int,
    log: Callable[[str], None],
    phases: StartPhases,
    shared: SharedWeights | None,
    *,
    is_recurrent: bool,
) -> CompiledProgram | None:
    """Compile the model and check the program; None if torch's operations must run the model.

    Raises ModelUnsupported if cpu_kernels rules torch out and no correct program can be compiled.
    """
    with phases.phase("compile"):
        compiled, reason = compile_model(
            model, hook, config, threads, shared, is_recurrent=is_recurrent
        )
    if compiled is not None:
        with phases.phase("self-check"):
            error = _self_check_error(model, hook, compiled, config, max_model_len)
        if error and must_compile(config):
            raise ModelUnsupported(f"cpu_kernels is {config.cpu_kernels}, but compiled, {error}")
        if error:
            compiled, reason = None, f"compiled, {error}"
            free_memory()
    if compiled is None:
        log(f"torch's operations: {reason}")
        is_cpu = model.device.type == "cpu"
        if config.quantization is not None and is_cpu and has_unrounded_linears(model):
            _log.warning(SLOW_QUANTIZATION, config.quantization, reason)
    else:
        size = f"{compiled.weight_bytes / 2**20:.0f} MiB of weights"
        kinds = format_names(compiled.formats, model.dtype)
        name = require_kernels().name
        log(f"compiled kernels for {name}, {size} in {kinds}, {compiled.memory.note}")
        unused = unused_quantization(config.quantization, compiled.formats)
        if unused is not None:
            log(unused)
    return compiled


def _self_check_error(
    model: PreTrainedModel,
    hook: AttentionHook,
    compiled: CompiledProgram,
    config: EngineConfig,
    max_model_len: int,
) -> str:
    """Return why the program fails the self-check; empty if it passes."""
    cache_dtype = choose_cache_dtype(config.kv_cache_dtype, model.dtype)
    make_runner = partial(
        _native_runner, compiled, vocab_rows(model), max_model_len, config.block_size, cache_dtype
    )
    is_rounded = compiled.formats != {WeightFormat.FLOAT} or _is_rounded(cache_dtype, model)
    try:
        with weights_rounded(model, config.quantization):
            check_model(model, make_runner, max_model_len, config.block_size, is_rounded, hook)
    except ModelUnsupported as error:
        return error.reason
    return ""


def _is_rounded(cache_dtype: CacheDtype, model: PreTrainedModel) -> bool:
    """Return whether the cache is less exact than the model."""
    return cache_dtype != choose_cache_dtype("auto", model.dtype)


def _runner_factory(
    model: PreTrainedModel,
    hook: AttentionHook,
    choice: BackendChoice,
    compiled: CompiledProgram | None,
    config: EngineConfig,
    max_model_len: int,
    cache_dtype: CacheDtype,
    slots: AdapterSlots | None,
    states: StateShapes,
) -> RunnerFactory:
    """Return a function that makes a runner with a cache of a number of blocks, and of slots for
    states."""
    vocab_size = vocab_rows(model)

    def make_runner(num_blocks: int, num_state_slots: int = CHECKED_STATE_SLOTS) -> LoadedRunner:
        if compiled is not None:
            adapter_slots = (
                compiled.new_adapter_slots(config.max_loras) if config.enable_lora else None
            )
            return _native_runner(
                compiled,
                vocab_size,
                max_model_len,
                config.block_size,
                cache_dtype,
                num_blocks,
                adapter_slots,
            )
        return make_torch_runner(
            model,
            hook,
            choice,
            max_model_len=max_model_len,
            num_blocks=num_blocks,
            speculates=config.speculative_config is not None and not states,
            cache_dtype=cache_dtype,
            slots=slots,
            state_shapes=states,
            num_state_slots=num_state_slots,
        )

    return make_runner


def _native_runner(
    compiled: CompiledProgram,
    vocab_size: int,
    max_model_len: int,
    block_size: int,
    cache_dtype: CacheDtype,
    num_blocks: int,
    slots: NativeAdapterSlots | None = None,
) -> NativeRunner:
    return NativeRunner(
        compiled,
        vocab_size=vocab_size,
        max_model_len=max_model_len,
        num_blocks=num_blocks,
        block_size=block_size,
        cache_dtype=cache_dtype,
        slots=slots,
    )


def _choose_cache_sizes(
    model: PreTrainedModel,
    hook: AttentionHook,
    choice: BackendChoice,
    config: EngineConfig,
    max_model_len: int,
    workers_on_host: int,
    slots: AdapterSlots | None,
    freed_bytes: int,
    states: StateShapes,
) -> CacheSizes:
    activation_bytes = 0
    if model.device.type == "cuda" and config.kv_cache_bytes is None:
        activation_bytes = measure_step_bytes(
            model, hook, config, max_model_len, choice.make, states
        )
        if slots is not None:
            activation_bytes += slots.max_bytes(config.max_lora_rank)
    return choose_cache_sizes(
        config,
        hook.layers,
        choose_cache_dtype(config.kv_cache_dtype, model.dtype),
        model.device,
        max_model_len,
        workers_on_host,
        activation_bytes,
        gathers=not choice.graphs,
        freed_bytes=freed_bytes,
        state_bytes=state_bytes(states),
    )
