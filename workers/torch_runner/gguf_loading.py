"""Build a transformers model on the weights of a GGUF file, which stay in the file's bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.common.gguf_reference import GGUFFilesError
from headrace.workers.errors import ModelUnsupported
from headrace.workers.quantized.gguf_file import GGUFWeights
from headrace.workers.torch_runner.fill_model import blank_model, fill_model
from headrace.workers.torch_runner.leftovers import check_leftovers


def load_gguf_model(
    folder: Path,
    model_class: Any,
    dtype: torch.dtype,
    log: Callable[[str], None] = lambda line: None,
    **options: object,
) -> PreTrainedModel:
    """Load the model of a prepared folder on the CPU; log receives a line about weights that are
    expanded.

    options: further ones of the class.
    Raises ModelUnsupported if the file has changed, or a weight is missing or cannot be read.
    """
    try:
        weights = GGUFWeights(folder)
    except (OSError, GGUFFilesError) as error:
        raise ModelUnsupported(str(error)) from error
    try:
        config = model_class.config_class.from_pretrained(folder, local_files_only=True)
        model = blank_model(model_class, config, dtype, **options)
        names = fill_model(model, weights, folder)
    except (
        OSError, LookupError, ValueError, TypeError, ArithmeticError, RuntimeError,
    ) as error:  # fmt: skip
        raise ModelUnsupported(
            f"{weights.paths[0]} cannot be read: {type(error).__name__}: {error}"
        ) from error
    check_leftovers(model, weights.names - names, weights.paths[0], log)
    for line in weights.notes(dtype):
        log(line)
    return model
