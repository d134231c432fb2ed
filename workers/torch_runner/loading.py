"""Load a transformers model from a folder, or raise the reason why it cannot be used.

Only safetensors and GGUF files are read, and only transformers' own classes are used unless the
operator has said that code of a model's folder may run.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.common.context_length import context_length
from headrace.protocol.common.gguf_reference import REFERENCE
from headrace.protocol.common.plausible_sizes import implausible_size
from headrace.protocol.common.stored_quantization import (
    StoredQuantizationError,
    stored_quantization,
)
from headrace.protocol.config import Dtype
from headrace.workers.errors import ModelUnsupported, may_pass, named_in_one_line
from headrace.workers.native.library import unsupported_reason
from headrace.workers.quantized.parameter import expand_parameters
from headrace.workers.torch_runner.damage import check_count, check_finite
from headrace.workers.torch_runner.fill_model import blank_model
from headrace.workers.torch_runner.gguf_loading import load_gguf_model
from headrace.workers.torch_runner.leftovers import (
    check_leftovers,
    check_not_quantized,
    check_scales,
    find_in_files,
    note_leftovers,
)
from headrace.workers.torch_runner.library_warnings import library_warnings
from headrace.workers.torch_runner.model_class import (
    SAME_TYPES,
    ModelChoice,
    choose_class,
    read_config,
)
from headrace.workers.torch_runner.packed_loading import load_packed_model
from headrace.workers.torch_runner.text_names import adopted_conversions, find_renames, of_text_part

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}


def choose_device(configured: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device of that name; "auto" is a GPU if there is one."""
    if configured == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if configured == "cuda" and not torch.cuda.is_available():
        raise ModelUnsupported("device is cuda, but torch finds no CUDA device")
    return torch.device(configured)


def load_model(
    model_path: Path,
    dtype: Dtype,
    device: torch.device,
    trusts_code: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> PreTrainedModel:
    """Load the folder's model in evaluation mode. Raises ModelUnsupported if that fails.

    trusts_code: whether code of the folder may run. log: receives lines for the operator.
    """
    config = read_config(model_path)
    _check_sizes(model_path, config)
    choice = choose_class(model_path, trusts_code)
    for line in choice.notes:
        log(line)
    with library_warnings(log), told_in_one_line(model_path):
        model = _read_model(model_path, config, choice, dtype, device, log)
    silence_transformers()
    check_finite(model, model_path)
    model.eval()
    model.requires_grad_(False)
    if device.type != "cpu":
        count, growth = expand_parameters(model)
        if count:
            size = f"{growth:.1f} times as large"
            log(f"{count} quantized weights expanded to {model.dtype}, {size}")
    loaded: PreTrainedModel = model.to(device)
    return loaded


def _read_model(
    model_path: Path,
    config: dict[str, Any],
    choice: ModelChoice,
    dtype: Dtype,
    device: torch.device,
    log: Callable[[str], None],
) -> Any:
    if (model_path / REFERENCE).is_file():
        chosen = choose_dtype(dtype, config, None, device)
        return load_gguf_model(model_path, choice.model_class, chosen, log)
    if _is_packed(model_path):
        chosen = _dtype_of_packed(dtype, config, device)
        return load_packed_model(model_path, choice, chosen, log)
    weights = _weight_files(model_path)[0]
    chosen = choose_dtype(dtype, config, weights, device)
    if dtype == "auto" and chosen != torch.float16 == _own_dtype(config, weights):
        log("bfloat16 instead of float16, for which there are no kernels")
    options: dict[str, object] = {}
    renames: dict[str, str] = {}
    if choice.whole or config.get("model_type") in SAME_TYPES:
        options["config"] = text = choice.read_config(model_path)
    if choice.whole:
        renames = find_renames(blank_model(choice.model_class, text, chosen), model_path)
        options["key_mapping"] = renames
    _check_count(model_path, choice.model_class, options.get("config"), chosen)
    with ExitStack() as stack:
        if choice.whole:
            types = (text.model_type, config["model_type"])
            stack.enter_context(adopted_conversions(choice.model_class, *types))
        model, unread = _read_weights(model_path, choice.model_class, chosen, options)
    own = of_text_part(unread, renames, model_path)
    note_leftovers(unread - own, log)
    check_leftovers(model, own, model_path, log, find_in_files(model_path))
    return model


def _check_sizes(model_path: Path, config: dict[str, Any]) -> None:
    """Check that the model is none that would be built for hours, or ask for all memory."""
    if (model_path / REFERENCE).is_file():
        return
    reason = implausible_size(config, _weight_bytes(model_path))
    if reason:
        raise ModelUnsupported(f"{model_path / 'config.json'}: {reason}")


def _check_count(model_path: Path, model_class: Any, config: Any, dtype: torch.dtype) -> None:
    """Check that the files can hold the model: transformers would ask for its memory before it
    compared shapes. config: a configuration other than the folder's own, or None."""
    config = config or model_class.config_class.from_pretrained(model_path, local_files_only=True)
    check_count(blank_model(model_class, config, dtype), model_path, _weight_bytes(model_path))


def _weight_bytes(model_path: Path) -> int:
    return sum(file.stat().st_size for file in _weight_files(model_path))


def _is_packed(model_path: Path) -> bool:
    try:
        return stored_quantization(model_path) is not None
    except StoredQuantizationError as error:
        raise ModelUnsupported(str(error)) from error


def _dtype_of_packed(
    configured: Dtype, config: dict[str, Any], device: torch.device
) -> torch.dtype:
    """Return the dtype to compute in with packed weights.

    Most of them are said to be float16, for GPUs. Without kernels for it "auto" takes bfloat16.
    """
    chosen = choose_dtype(configured, config, None, device)
    if configured == "auto" and chosen == torch.float16 and _is_fast_in_bfloat16(device):
        return torch.bfloat16
    return chosen


def read_model_class(model_path: Path) -> Any:
    """Return the folder's transformers class. Raises ModelUnsupported if none can be used."""
    return choose_class(model_path).model_class


@contextmanager
def told_in_one_line(model_path: Path) -> Iterator[None]:
    """Raise ModelUnsupported, with the first line, for what transformers raises for a folder.

    Other exceptions, and what the system refuses, pass.
    """
    try:
        yield
    except (
        ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError,
        ArithmeticError, AssertionError, SafetensorError, StrictDataclassError, OSError,
    ) as error:  # fmt: skip
        if may_pass(error):
            raise
        has_sentence = isinstance(error, (OSError, ValueError, SafetensorError))
        told = named_in_one_line(error)
        reason = told.partition(": ")[2] if has_sentence and ": " in told else told
        raise ModelUnsupported(f"{model_path} cannot be loaded: {reason}") from error


def read_weights(model_path: Path, model_class: Any, dtype: torch.dtype, **options: object) -> Any:
    """Load the model on the CPU. Raises ModelUnsupported if a weight is missing, or weights are
    quantized.

    options: further ones of the class.
    """
    with told_in_one_line(model_path):
        model, unread = _read_weights(model_path, model_class, dtype, options)
    check_scales(model_path, unread)
    return model


def _read_weights(
    model_path: Path, model_class: Any, dtype: torch.dtype, options: dict[str, object]
) -> tuple[Any, set[str]]:
    """Return the model on the CPU, and the names of weights that it has no place for."""
    check_not_quantized(model_path)
    model, report = model_class.from_pretrained(
        model_path,
        dtype=dtype,
        attn_implementation="eager",
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the report
        **options,
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelUnsupported(
            f"{model_path} lacks {len(missing)} weights that its architecture needs, "
            f"among them {missing[0]}"
        )
    for name, *shapes in sorted(report["mismatched_keys"]):
        stored, needed = (tuple(shape) for shape in shapes)
        raise ModelUnsupported(f"{model_path}: {name} has the shape {stored} instead of {needed}")
    return model, set(report["unexpected_keys"])


def choose_dtype(
    configured: Dtype, config: dict[str, Any], weights: Path | None, device: torch.device
) -> torch.dtype:
    """Return the dtype to compute in.

    weights: a file that tells the checkpoint's dtype if its configuration does not.

    "auto" is the checkpoint's dtype, but bfloat16 for float32 checkpoints if that is fast here:
    half the bytes of weights for each token; and for float16 ones where kernels of ours read it.
    """
    if configured != "auto":
        return _DTYPES[configured]
    own = _own_dtype(config, weights)
    if own == torch.float32 and _is_fast_in_bfloat16(device):
        return torch.bfloat16
    if own == torch.float16 and _has_kernels_for_bfloat16(device):
        return torch.bfloat16
    return own


def is_slow_on_torch(
    model_path: Path, configured: Dtype, dtype: torch.dtype, device: torch.device
) -> bool:
    """Return whether "auto" chose this dtype for kernels of ours, and torch is faster in float32.

    A checkpoint's own dtype is kept: float32 would take twice its memory.
    """
    if configured != "auto" or dtype != torch.bfloat16 or _has_native_bfloat16(device):
        return False
    weights = None if (model_path / REFERENCE).is_file() else _weight_files(model_path)[0]
    return _own_dtype(read_config(model_path), weights) == torch.float32


def checkpoint_dtype(model_path: Path) -> torch.dtype:
    """Return the dtype of a folder's weights, as its configuration or its first file says."""
    return _own_dtype(read_config(model_path), _weight_files(model_path)[0])


def to_float32(model: Any) -> None:
    """Convert a model's weights to float32, in place."""
    model.float()


def _own_dtype(config: dict[str, Any], weights: Path | None) -> torch.dtype:
    text = config.get("text_config") or {}
    names = (config.get("dtype"), config.get("torch_dtype"), text.get("dtype"))
    name = next((name for name in names if name in _DTYPES), None)
    return _DTYPES[name] if name else _stored_dtype(weights) if weights else torch.float32


def model_length(model: PreTrainedModel, configured: int | None = None) -> int:
    """Return the model's maximal length in tokens.

    configured: what the operator says, of a model that gives none.

    Raises ModelUnsupported if neither does.
    """
    length = context_length(model.config.get_text_config(decoder=True).to_dict())
    if length is None and configured is None:
        raise ModelUnsupported(
            "config.json gives no max_position_embeddings: say with --max-model-len how long its "
            "texts may be"
        )
    return length or configured or 0


def _weight_files(model_path: Path) -> list[Path]:
    files = sorted(model_path.glob("*.safetensors"))
    if files:
        return files
    if any(model_path.glob("*.bin")) or any(model_path.glob("*.pt*")):
        raise ModelUnsupported(
            f"{model_path} has its weights in pickle files only; see safetensors"
        )
    raise ModelUnsupported(f"{model_path} has no weights (*.safetensors)")


def _stored_dtype(weights: Path) -> torch.dtype:
    """Return the dtype of a file's first tensor; float32 if it is not a supported float."""
    try:
        with safe_open(weights, framework="pt") as file:
            name = next(iter(file.keys()), None)
            stored = file.get_slice(name).get_dtype() if name is not None else ""
    except (OSError, SafetensorError) as error:
        raise ModelUnsupported(f"{weights} is not a safetensors file") from error
    return _DTYPES.get(stored, torch.float32)


def _is_fast_in_bfloat16(device: torch.device) -> bool:
    """Return whether the device, or torch on it, computes in bfloat16, or our kernels read it."""
    return _has_kernels_for_bfloat16(device) or _has_native_bfloat16(device)


def _has_kernels_for_bfloat16(device: torch.device) -> bool:
    return device.type == "cpu" and unsupported_reason(torch.bfloat16) is None


def _has_native_bfloat16(device: torch.device) -> bool:
    """Return whether torch's operations are at least as fast in bfloat16 as in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        return False
    lines = flags.read_text().splitlines()
    line = next((line for line in lines if line.startswith("flags")), "")
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(line.split())


def silence_transformers() -> None:
    """Suppress transformers' progress bars and warnings: our errors say what matters."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
