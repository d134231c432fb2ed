"""Choose the format in which a weight is stored and multiplied."""

import hashlib
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import torch

from headrace.protocol.config import Quantization
from headrace.workers.quantized.formats import BLOCK_FORMATS
from headrace.workers.quantized.stack import stack_of
from headrace.workers.quantized.tensor import InputOrder, quantized_of

UNUSED_QUANTIZATION = (
    "--quantization {} changes nothing: the model's weights are quantized, and stay as they are"
)


class WeightFormat(IntEnum):
    """Ways to store and multiply a weight; see `linear` in src/linear_operations.h.

    From Q8_0 on: blocks, in the order of src/quantized.cpp; rows are rounded to 8 bits in blocks.
    """

    FLOAT = 0
    INT8_WEIGHT_ONLY = 1
    INT8_DYNAMIC = 2  # rows are rounded to 8 bits too
    Q8_0 = 3
    Q4_0 = 4
    Q4_1 = 5
    Q5_0 = 6
    Q5_1 = 7
    Q4_K = 8
    Q5_K = 9
    Q6_K = 10
    IQ4_NL = 11
    MXFP4 = 12
    Q8_M = 13

    @property
    def is_blocks(self) -> bool:
        return self >= WeightFormat.Q8_0

    @property
    def rounds_rows(self) -> bool:
        """Whether rows are rounded to 8 bits, too."""
        return self >= WeightFormat.INT8_DYNAMIC


def format_of(
    weight: Any, quantization: Quantization | None, is_head: bool = False
) -> WeightFormat:
    """Return the format that a weight is multiplied in: the file's, or what is configured.

    is_head: whether it makes logits. Its rounding goes straight into them, so it has 8 bits where
    others have 4 or 5, and its rows are not rounded with int8_dynamic.
    """
    quantized, stack = quantized_of(weight), stack_of(weight)
    if quantized is not None and not quantized.is_float:
        return WeightFormat[quantized.format.upper()]
    if stack is not None:
        return WeightFormat[stack.format.upper()]
    if quantization is None:
        return WeightFormat.FLOAT
    if quantization in BLOCK_FORMATS:
        return WeightFormat.Q8_0 if is_head else WeightFormat[quantization.upper()]
    if quantization == "int8_dynamic" and not is_head:
        return WeightFormat.INT8_DYNAMIC
    return WeightFormat.INT8_WEIGHT_ONLY


def unused_quantization(
    quantization: Quantization | None, formats: Iterable[WeightFormat]
) -> str | None:
    """Return a line for the operator if no weight has the format that is configured.

    formats: of all weights that are multiplied.
    """
    if quantization is None or format_of(None, quantization) in formats:
        return None
    return UNUSED_QUANTIZATION.format(quantization)


def order_of(weight: Any) -> InputOrder | None:
    """Return the order in which a weight's products want the numbers of a row; None: as it is."""
    quantized = quantized_of(weight)
    return None if quantized is None else quantized.order


def order_key(weight: Any) -> str:
    """Return what is equal for weights with the same order; empty for those without."""
    order = None if weight is None else order_of(weight)
    return "" if order is None else hashlib.sha256(order.tobytes()).hexdigest()


def format_names(formats: Iterable[WeightFormat], dtype: torch.dtype) -> str:
    """Return the names of formats as options and files have them, joined by commas.

    dtype: of those that are floats.
    """
    names = [each.name.lower().removesuffix("_weight_only") for each in sorted(formats)]
    float_name = str(dtype).removeprefix("torch.")
    return ", ".join(float_name if name == "float" else name for name in names)
