"""Find damage of a checkpoint that neither its names and shapes nor the self-check would tell."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from headrace.protocol.common.plausible_sizes import MAX_NUMBERS_PER_BYTE, SLACK_NUMBERS
from headrace.workers.errors import ModelUnsupported


def check_count(model: nn.Module, model_path: Path, weight_bytes: int) -> None:
    """Check that files can hold a model's weights, before there is memory for these.

    model: without memory for its tensors. weight_bytes: the size of the files.

    Raises ModelUnsupported if they cannot: some size in the configuration is damaged.
    """
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > MAX_NUMBERS_PER_BYTE * weight_bytes + SLACK_NUMBERS:
        raise ModelUnsupported(
            f"{model_path / 'config.json'}: a model of these sizes has {count:.6g} weights, and "
            f"the files have {weight_bytes} bytes"
        )


def check_finite(model: nn.Module, model_path: Path) -> None:
    """Check weights of which a forward pass reads only some: embeddings and experts.

    A damaged one would spoil the texts that need it. The self-check finds all others.

    Raises ModelUnsupported, which names the weight.
    """
    for path, module in model.named_modules():
        for name, weight in module.named_parameters(path, recurse=False):
            is_read_in_part = isinstance(module, nn.Embedding) or weight.ndim == 3
            if is_read_in_part or ".experts." in name:
                _check_weight(name, weight, model_path)


def _check_weight(name: str, weight: Any, model_path: Path) -> None:
    if type(weight) is not nn.Parameter or not weight.is_floating_point() or not weight.numel():
        return  # in blocks
    least, greatest = torch.aminmax(weight.data)  # each is NaN if one number is
    if not (torch.isfinite(least) and torch.isfinite(greatest)):
        raise ModelUnsupported(f"{model_path}: {name} has NaN or infinite numbers: it is damaged")
