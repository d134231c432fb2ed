"""Build a transformers model on safetensors whose linear layers are packed integers."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.common.stored_quantization import StoredQuantizationError
from headrace.workers.errors import ModelUnsupported, named_in_one_line
from headrace.workers.quantized.packed_files import PackedFiles
from headrace.workers.torch_runner.fill_model import blank_model, fill_model
from headrace.workers.torch_runner.leftovers import check_leftovers, note_leftovers
from headrace.workers.torch_runner.model_class import ModelChoice
from headrace.workers.torch_runner.text_names import find_renames, of_text_part, renamed


def load_packed_model(
    folder: Path, choice: ModelChoice, dtype: torch.dtype, log: Callable[[str], None]
) -> PreTrainedModel:
    """Load a folder's model on the CPU; log receives a line about weights that are expanded.

    Raises ModelUnsupported if a weight is missing, or cannot be read.
    """
    try:
        config = choice.read_config(folder)
        config.__dict__.pop("quantization_config", None)
        model = blank_model(choice.model_class, config, dtype)
        renames = find_renames(model, folder) if choice.whole else {}
        weights = PackedFiles(folder, lambda name: renamed(name, renames))
        names = fill_model(model, weights, folder)
    except (OSError, SafetensorError, StoredQuantizationError) as error:
        raise ModelUnsupported(f"{folder} cannot be loaded: {error}") from error
    except (LookupError, ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise ModelUnsupported(
            f"{folder} has packed weights of an unknown layout: {named_in_one_line(error)}"
        ) from error
    unread = weights.unread(names)
    own = of_text_part(unread, renames, folder)
    note_leftovers(unread - own, log)
    check_leftovers(model, own, folder, log, weights.find)
    for line in weights.notes(dtype):
        log(line)
    return model
