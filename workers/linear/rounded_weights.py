"""Let a model compute with the numbers that its weights have once they are quantized."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headrace.workers.quantized.encode import quantize
from headrace.workers.quantized.formats import BLOCK_FORMATS
from headrace.workers.quantized.parameter import pack_parameter
from headrace.workers.quantized.tensor import quantized_of


def head_quantization(quantization: str | None) -> str | None:
    """Return how the head is quantized, whose rounding goes straight into the logits."""
    if quantization is None:
        return None
    return "q8_0" if quantization in BLOCK_FORMATS else "int8"


@contextmanager
def weights_rounded(model: PreTrainedModel, quantization: str | None) -> Iterator[None]:
    """Give linear layers weights in blocks within the context; those in a file's blocks stay.

    So what differs from a program with the same blocks is no error of theirs. Does nothing for
    other quantizations.
    """
    if quantization not in BLOCK_FORMATS:
        yield
        return
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    weights = {module: module.weight for module in _unrounded_linears(model)}
    try:
        for module, weight in weights.items():
            name = head_quantization(quantization) if module is head else quantization
            assert name is not None
            module.weight = _rounded(module, weight, name)
        yield
    finally:
        for module, weight in weights.items():
            module.weight = weight


def has_unrounded_linears(model: PreTrainedModel) -> bool:
    """Return whether a linear layer has a weight that is not in blocks."""
    return any(True for _ in _unrounded_linears(model))


def _unrounded_linears(model: PreTrainedModel) -> Iterator[nn.Linear | Conv1D]:
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and not _is_in_blocks(module.weight):
            yield module


def _is_in_blocks(weight: torch.Tensor) -> bool:
    quantized = quantized_of(weight)
    return quantized is not None and not quantized.is_float


def _rounded(module: nn.Linear | Conv1D, weight: torch.Tensor, name: str) -> nn.Parameter:
    if isinstance(module, Conv1D):
        numbers = quantize(name, weight.t()).dequantize().to(weight.dtype).t()
        return nn.Parameter(numbers, requires_grad=False)
    return pack_parameter(quantize(name, weight), weight.dtype)
