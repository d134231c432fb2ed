"""Load a transformers model that pools into a runner."""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from headrace.protocol.common.gguf_reference import REFERENCE
from headrace.protocol.common.pooling.answer_tokens import read_answer_tokens
from headrace.protocol.common.pooling.json_files import PoolingFilesError, read_object
from headrace.protocol.common.pooling.model_setup import (
    PoolingSetup,
    choose_runner,
)
from headrace.protocol.common.pooling.static_embedding import STATIC_TYPE
from headrace.protocol.config import Dtype, EngineConfig
from headrace.protocol.logs.set_up import adopt_library_loggers
from headrace.protocol.pooling import Convert
from headrace.workers.errors import ModelUnsupported
from headrace.workers.load_options import threads_of
from headrace.workers.lora.slots import AdapterSlots
from headrace.workers.native.compile_model import release_weights
from headrace.workers.native.library import (
    choose_kernels,
    require_kernels,
    unsupported_reason,
)
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.native.weight_format import format_names
from headrace.workers.native.weight_memory import SharedWeights, fingerprint_weights
from headrace.workers.pooling.answer_classifier import AnswerClassifier, answer_ids
from headrace.workers.pooling.classifier import Classifier, ScoreSettings
from headrace.workers.pooling.compile_encoder import compile_encoder
from headrace.workers.pooling.compiled_encoder import CompiledEncoder
from headrace.workers.pooling.encoder import Encoder
from headrace.workers.pooling.load_cached import limits_of, setup_of
from headrace.workers.pooling.native_runner import NativePoolingRunner, leave_cores_to_programs
from headrace.workers.pooling.pooler import pooler_of
from headrace.workers.pooling.runner import PoolingRunner, TextLimits, TextPooler
from headrace.workers.pooling.static_runner import StaticRunner, read_table
from headrace.workers.pooling.torch_runner import TorchPoolingRunner
from headrace.workers.program_cache.cached_programs import ProgramCache
from headrace.workers.start_phases import StartPhases
from headrace.workers.torch_runner.gguf_loading import load_gguf_model
from headrace.workers.torch_runner.loading import (
    checkpoint_dtype,
    choose_device,
    read_weights,
    silence_transformers,
    told_in_one_line,
)

# Of random texts' mean vectors: below this, a program is wrong, or quantized too much.
_LEAST_COSINE = 0.9

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pooling_runner(
    model_path: Path,
    config: EngineConfig,
    workers_on_host: int,
    log: Callable[[str], None],
    phases: StartPhases,
    shared_file: SharedFile | None = None,
    cache: ProgramCache | None = None,
) -> PoolingRunner:
    """Load a model folder. Raises ModelUnsupported, with one line, if it cannot be served.

    shared_file: the file in which the group's workers share packed weights. cache: where the
        program is kept; None: nowhere.
    """
    adopt_library_loggers()
    values = read_object(model_path / "config.json")
    if values.get("model_type") == STATIC_TYPE:
        return _load_static(model_path, values, config, log, phases)
    choose_kernels(config.cpu_kernels)
    device = choose_device(config.device)
    threads = threads_of(config, workers_on_host)
    torch.set_num_threads(threads)
    with phases.phase("weights"):
        dtype = _choose_dtype(model_path, config.dtype, device)
        convert = _convert(model_path, config)
        # A program rounds the products' numbers only, where the checkpoint has more bits.
        is_exact = device.type == "cpu" and not unsupported_reason(dtype)
        own = _stored_dtype(model_path)
        stored = own if is_exact and own == torch.float32 else dtype
        whole = _load_model(model_path, stored, device, convert, log)
    values = _configuration(model_path, whole)
    setup = setup_of(model_path, config, values)
    model, pooler = _parts(model_path, whole, setup, device)
    types = getattr(model.config, "type_vocab_size", 0) or 1
    limits = limits_of(setup, config, model.get_input_embeddings().weight.shape[0], types)
    log(f"{type(model).__name__} in {dtype} on {device}, {threads} threads")
    encoder = Encoder(model, limits.max_model_len)
    shared = None
    if shared_file is not None:
        shared = SharedWeights(shared_file, fingerprint_weights(model_path))
    compiled = _compile(encoder, config, threads, dtype, log, phases, shared)
    if compiled is not None:
        if cache is not None and not setup.labels:
            with phases.phase("compile"):
                _keep(cache, encoder, compiled, limits, setup, values)
        release_weights(model, compiled.compiled)
        leave_cores_to_programs()
        return NativePoolingRunner(compiled, pooler, limits)
    model.to(dtype)
    with phases.phase("self-check"):
        reason = encoder.check()
    if config.enable_lora:
        encoder.slots = AdapterSlots.of(model, config.max_loras)
    if reason:
        log(f"texts of different lengths run one after the other: {reason}")
    return TorchPoolingRunner(encoder, pooler, limits)


def _keep(
    cache: ProgramCache,
    encoder: Encoder,
    compiled: CompiledEncoder,
    limits: TextLimits,
    setup: PoolingSetup,
    values: Mapping[str, Any],
) -> None:
    """Keep the program for later starts, with what these must know of the model."""
    plan = compiled.compiled.plan
    assert plan is not None
    facts = {
        "config": json.loads(json.dumps(values, default=str)),
        "num_token_types": limits.num_token_types,
        "padding": encoder.padding,
        "cosine": compiled.cosine,
        "max_len": encoder.max_len,
    }
    cache.save(plan, encoder.model, limits.vocab_size, setup.longest, facts)


def _load_static(
    model_path: Path,
    values: dict[str, Any],
    config: EngineConfig,
    log: Callable[[str], None],
    phases: StartPhases,
) -> StaticRunner:
    if config.quantization:
        raise ModelUnsupported("quantization: a table of embeddings has no layers")
    device = choose_device(config.device)
    with phases.phase("weights"):
        table = read_table(model_path).to(device)
    setup = setup_of(model_path, config, values)
    log(f"a table of embeddings on {device}: {table.shape[0]} tokens, {table.shape[1]} numbers")
    limits = limits_of(setup, config, len(table), 1)
    return StaticRunner(table, pooler_of(setup, device), limits)


def _compile(
    encoder: Encoder,
    config: EngineConfig,
    threads: int,
    dtype: torch.dtype,
    log: Callable[[str], None],
    phases: StartPhases,
    shared: SharedWeights | None,
) -> CompiledEncoder | None:
    """Compile the model and check the program; None if torch's operations must run the model.

    Raises ModelUnsupported if the configuration rules torch out and there is no correct program.
    """
    model = encoder.model
    with phases.phase("compile"):
        compiled, reason = compile_encoder(
            model, config, threads, encoder.positions, dtype, encoder.max_len, shared
        )
    cosine = 1.0
    if compiled is not None:
        with phases.phase("self-check"):
            is_same, cosine = encoder.compare(compiled.encode, dtype)
        is_rounded = config.quantization or any(f.is_blocks for f in compiled.compiled.formats)
        if cosine < _LEAST_COSINE or not (is_same or is_rounded):
            compiled, reason = None, f"compiled, its vectors have a cosine of {cosine:.4f} only"
    if compiled is not None:
        program = compiled.compiled
        size = f"{program.weight_bytes / 2**20:.0f} MiB of weights"
        kinds = format_names(program.formats, dtype)
        log(f"compiled kernels for {require_kernels().name}, {size} in {kinds}")
        compiled.cosine = cosine
        if config.quantization:
            log(f"{config.quantization}: cosine to the exact model's vectors {cosine:.5f}")
        return compiled
    for name in ("cpu_kernels", "quantization"):
        value = getattr(config, name)
        if value not in (None, "auto", "torch"):
            raise ModelUnsupported(f"{name} is {value}, but {reason}")
    log(f"torch's operations: {reason}")
    return None


def _parts(
    model_path: Path, whole: Any, setup: PoolingSetup, device: torch.device
) -> tuple[Any, TextPooler]:
    """Return a model without its head, and what makes numbers of its vectors."""
    if not setup.labels:
        return whole, pooler_of(setup, device)
    scores = ScoreSettings(setup.activation, setup.logit_mean, setup.logit_sigma)
    if setup.answers is not None:
        ids = answer_ids(model_path, setup.answers)
        answering = AnswerClassifier(whole, ids, setup.answers.is_difference, scores)
        return answering.base, answering
    classifier = Classifier(whole, scores, setup.step_tag_id)
    return classifier.base, classifier


def _convert(model_path: Path, config: EngineConfig) -> Convert:
    try:
        return choose_runner(model_path, "pooling", config.convert)[1]
    except PoolingFilesError as error:
        raise ModelUnsupported(str(error)) from error


def _configuration(model_path: Path, model: Any) -> dict[str, Any]:
    """Return the completed configuration, with the architecture that the folder names."""
    config: dict[str, Any] = model.config.get_text_config(decoder=True).to_dict()
    return config | {"architectures": read_object(model_path / "config.json").get("architectures")}


def _choose_dtype(model_path: Path, configured: Dtype, device: torch.device) -> torch.dtype:
    """Return the dtype to compute in. "auto" is the checkpoint's: embeddings that are kept must not
    depend on the machine. On a CPU float16 is float32, which holds the same and is faster."""
    if configured != "auto":
        return _DTYPES[configured]
    own = _stored_dtype(model_path)
    return torch.float32 if own == torch.float16 and device.type == "cpu" else own


def _stored_dtype(model_path: Path) -> torch.dtype:
    """Return the checkpoint's dtype. Embeddings of GGUF files are in float32: only weights are
    rounded there."""
    if (model_path / REFERENCE).is_file():
        return torch.float32
    return checkpoint_dtype(model_path)


def _options_of(model_class: Any) -> dict[str, bool]:
    """Return what a model is made with: without layers of transformers behind its vectors."""
    takes = inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def _load_gguf(
    model_path: Path, config: Any, dtype: torch.dtype, log: Callable[[str], None]
) -> Any:
    """Load the model below the head of a GGUF file."""
    import transformers

    model_class = getattr(transformers, config.architectures[0])
    model = load_gguf_model(model_path, model_class, dtype, log, **_options_of(model_class))
    return getattr(model, model.base_model_prefix, model)


def _load_model(
    model_path: Path,
    dtype: torch.dtype,
    device: torch.device,
    convert: str,
    log: Callable[[str], None],
) -> Any:
    """Load the model, with its head if that classifies. Raises ModelUnsupported if a weight is
    missing."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoModelForTextEncoding,
        AutoModelForTokenClassification,
    )

    silence_transformers()
    with told_in_one_line(model_path):
        config = AutoConfig.from_pretrained(model_path, local_files_only=True)
        is_gguf = (model_path / REFERENCE).is_file()
        if is_gguf and convert == "classify":
            raise ModelUnsupported("a GGUF file embeds only: give safetensors to classify")
        auto: Any = AutoModel
        if getattr(config, "is_encoder_decoder", False):
            auto = AutoModelForTextEncoding  # without the decoder, as in T5
        if convert == "classify" and read_answer_tokens(model_path, config.to_dict()) is not None:
            auto = AutoModelForCausalLM
        elif convert == "classify":
            is_for_tokens = any("ForToken" in name for name in config.architectures or ())
            by_text = AutoModelForSequenceClassification
            auto = AutoModelForTokenClassification if is_for_tokens else by_text
        model_class = auto._model_mapping[type(config)]
    if is_gguf:
        model = _load_gguf(model_path, config, dtype, log)
    else:
        model = read_weights(model_path, model_class, dtype, **_options_of(model_class))
    model.eval()
    model.requires_grad_(False)
    return model.to(device)
