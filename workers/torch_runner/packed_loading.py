"""Build a transformers model on safetensors whose linear layers are packed integers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.common.stored_quantization import StoredQuantizationError
from headrace.workers.errors import ModelUnsupported
from headrace.workers.quantized.packed_files import PackedFiles
from headrace.workers.torch_runner.fill_model import blank_model, fill_model


def load_packed_model(
    folder: Path, model_class: Any, dtype: torch.dtype, log: Callable[[str], None]
) -> PreTrainedModel:
    """Load a folder's model on the CPU; log receives a line about weights that are expanded.

    Raises ModelUnsupported if a weight is missing, or cannot be read.
    """
    try:
        config = model_class.config_class.from_pretrained(folder, local_files_only=True)
        config.__dict__.pop("quantization_config", None)
        model = blank_model(model_class, config, dtype)
        weights = PackedFiles(folder)
        bias = weights.unread_bias(set(model.state_dict()))
        if bias is not None:
            raise ModelUnsupported(f"{folder} has a bias that its architecture has not: {bias}")
        fill_model(model, weights, folder)
    except (OSError, SafetensorError, StoredQuantizationError) as error:
        raise ModelUnsupported(f"{folder} cannot be loaded: {error}") from error
    except (LookupError, ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise ModelUnsupported(
            f"{folder} has packed weights of an unknown layout: {type(error).__name__}: {error}"
        ) from error
    for line in weights.notes(dtype):
        log(line)
    return model
