"""Build a transformers model on the weights of a GGUF file, which stay in the file's bytes."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.common.gguf_reference import GGUFFilesError
from headrace.workers.errors import ModelUnsupported
from headrace.workers.quantized.gguf_file import GGUFWeights
from headrace.workers.quantized.parameter import pack_parameter
from headrace.workers.quantized.tensor import QuantizedTensor


def load_gguf_model(folder: Path, model_class: Any, dtype: torch.dtype) -> PreTrainedModel:
    """Load the model of a prepared folder on the CPU.

    Raises ModelUnsupported if the file has changed, or a weight is missing.
    """
    try:
        weights = GGUFWeights(folder)
    except GGUFFilesError as error:
        raise ModelUnsupported(str(error)) from error
    if not weights.is_known:
        return _load_whole(folder, weights.paths[0], model_class, dtype)
    config = model_class.config_class.from_pretrained(folder, local_files_only=True)
    model = _blank_model(model_class, config, dtype)
    _fill(model, weights, folder)
    return model


def _blank_model(model_class: Any, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model without memory for its tensors."""
    with torch.device("meta"):
        model: PreTrainedModel = model_class._from_config(
            config, dtype=dtype, attn_implementation="eager"
        )
    for module in model.modules():  # nothing is, on this device
        module.__dict__.pop("_is_hf_initialized", None)
    return model


def _fill(model: PreTrainedModel, weights: GGUFWeights, folder: Path) -> None:
    """Set all parameters and buffers. Raises ModelUnsupported if a weight is missing."""
    stored = set(model.state_dict())
    missing = []
    for path, module in model.named_modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            full = f"{path}.{name}" if path else name
            if tensor is None:
                continue
            if full in weights.names:
                _set(module, name, weights.read(full, tensor.dtype), tensor)
            elif full not in stored:  # transformers computes it
                module._buffers[name] = torch.empty_like(tensor, device="cpu")
            else:
                missing.append(full)
    model.tie_weights()
    missing = [name for name in missing if _is_meta(model, name)]
    if missing:
        raise ModelUnsupported(
            f"{folder} lacks {len(missing)} weights that its architecture needs, "
            f"among them {missing[0]}"
        )
    model.initialize_weights()  # type: ignore[no-untyped-call]


def _set(module: nn.Module, name: str, value: QuantizedTensor | torch.Tensor, like: Any) -> None:
    """Set a parameter or buffer. Raises ModelUnsupported if its shape is another."""
    if tuple(value.shape) != tuple(like.shape):
        shapes = f"{tuple(value.shape)} instead of {tuple(like.shape)}"
        raise ModelUnsupported(f"{type(module).__name__}.{name} has the shape {shapes}")
    if isinstance(value, QuantizedTensor):
        parameter: torch.Tensor = pack_parameter(value, like.dtype)
    else:
        parameter = nn.Parameter(value, requires_grad=False)
    # transformers initializes what has no such mark
    parameter._is_hf_initialized = True  # type: ignore[attr-defined]
    if name in module._buffers:
        module._buffers[name] = parameter.data
        module._buffers[name]._is_hf_initialized = True  # type: ignore[union-attr]
    else:
        module._parameters[name] = parameter  # type: ignore[assignment]


def _is_meta(model: nn.Module, name: str) -> bool:
    path, _, last = name.rpartition(".")
    return bool(getattr(model.get_submodule(path), last).is_meta)


def _load_whole(folder: Path, file: Path, model_class: Any, dtype: torch.dtype) -> PreTrainedModel:
    """Load a model whose file only transformers can read, with expanded weights."""
    from transformers import GgufConfig

    try:
        model, report = model_class.from_pretrained(
            file.parent,
            gguf_file=file.name,
            config=model_class.config_class.from_pretrained(folder, local_files_only=True),
            quantization_config=GgufConfig(dequantize=True),
            dtype=dtype,
            attn_implementation="eager",
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelUnsupported(f"{file} cannot be loaded: {first_line}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelUnsupported(f"{file} lacks {len(missing)} weights, among them {missing[0]}")
    loaded: PreTrainedModel = model
    return loaded
