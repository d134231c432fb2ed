"""Build a transformers model on weights that are read from files by its own names."""

from collections.abc import Set
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headrace.workers.errors import ModelUnsupported
from headrace.workers.quantized.parameter import pack_parameter
from headrace.workers.quantized.stack import QuantizedStack
from headrace.workers.quantized.stacked_parameter import stack_parameter
from headrace.workers.quantized.tensor import QuantizedTensor

Weight = QuantizedTensor | QuantizedStack | torch.Tensor


class StoredWeights(Protocol):
    """Tensors by a model's names."""

    @property
    def names(self) -> Set[str]: ...

    def read(self, name: str, dtype: torch.dtype) -> Weight:
        """Return a tensor: a matrix or those of experts in blocks, or in a float type."""


def blank_model(
    model_class: Any, config: Any, dtype: torch.dtype, **options: object
) -> PreTrainedModel:
    """Return a model without memory for its tensors. options: further ones of the class."""
    with torch.device("meta"):
        model: PreTrainedModel = model_class._from_config(
            config, dtype=dtype, attn_implementation="eager", **options
        )
    for module in model.modules():  # nothing is, on this device
        module.__dict__.pop("_is_hf_initialized", None)
    return model


def fill_model(model: PreTrainedModel, weights: StoredWeights, folder: Path) -> set[str]:
    """Set all parameters and buffers; return the names of those that were set.

    Raises ModelUnsupported if a weight is missing.
    """
    stored, names = set(model.state_dict()), weights.names
    missing: list[str] = []
    found: set[str] = set()
    for path, module in model.named_modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            full = f"{path}.{name}" if path else name
            if tensor is None:
                continue
            if full in names:
                found.add(full)
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
    return found


def _set(module: nn.Module, name: str, value: Weight, like: Any) -> None:
    """Set a parameter or buffer. Raises ModelUnsupported if its shape is another."""
    if isinstance(module, Conv1D) and name == "weight" and isinstance(value, QuantizedTensor):
        value = value.dequantize(dtype=like.dtype).t().contiguous()
    if tuple(value.shape) != tuple(like.shape):
        shapes = f"{tuple(value.shape)} instead of {tuple(like.shape)}"
        raise ModelUnsupported(f"{type(module).__name__}.{name} has the shape {shapes}")
    if isinstance(value, QuantizedTensor):
        parameter: torch.Tensor = pack_parameter(value, like.dtype)
    elif isinstance(value, QuantizedStack):
        parameter = stack_parameter(value, like.dtype)
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
