"""Experts of packed checkpoints: how their tensors are named, and how they become one of the model.

transformers has the weights of a layer's experts in two tensors; most checkpoints have three
matrices for each expert. Those of gpt-oss are in 4-bit floats (MXFP4), stacked.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from headrace.workers.quantized.converted_rows import Bytes, ConvertedRows, Rows
from headrace.workers.quantized.formats import BLOCK
from headrace.workers.quantized.integer_codes import unpack
from headrace.workers.quantized.stack import QuantizedStack
from headrace.workers.quantized.tensor import QuantizedTensor, row_bytes

_EXPERT = re.compile(r"(?P<base>.*\.experts)\.(?P<number>\d+)\.(?P<part>\w+)\.weight")
# Which tensor of the model a part is of, and its place there.
_PARTS = {
    "gate_proj": ("gate_up_proj", 0), "w1": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1), "w3": ("gate_up_proj", 1),
    "down_proj": ("down_proj", 0), "w2": ("down_proj", 0),
}  # fmt: skip
_MIXTRAL = ".block_sparse_moe."  # what transformers calls mlp
# Powers of two, by their biased exponents, that are scales of 16 bits once they are halved.
_LEAST_EXPONENT, _GREATEST_EXPONENT = 104, 142


@dataclass(frozen=True, slots=True)
class ExpertMatrix:
    """The place of one expert's matrix: in the model's tensor, by expert and by part."""

    tensor: str
    number: int
    part: int


def renamed(name: str) -> str:
    """Return a tensor's name as transformers' models have it now."""
    return name.replace(_MIXTRAL, ".mlp.")


def expert_matrix(name: str) -> ExpertMatrix | None:
    """Return where a weight belongs; None if it is not that of one expert."""
    match = _EXPERT.fullmatch(name)
    if match is None or match["part"] not in _PARTS:
        return None
    tensor, part = _PARTS[match["part"]]
    return ExpertMatrix(f"{match['base']}.{tensor}", int(match["number"]), part)


def stacked(matrices: Iterable[list[QuantizedTensor | torch.Tensor]]) -> QuantizedStack | None:
    """Return experts' matrices as one; None if they are not all in blocks of the same format."""
    experts = []
    for parts in matrices:
        packed = [p for p in parts if isinstance(p, QuantizedTensor) and p.order is None]
        if len(packed) < len(parts):
            return None
        experts.append(packed)
    formats = {part.format for packed in experts for part in packed}
    return QuantizedStack(experts) if len(formats) == 1 else None


def mxfp4_stack(blocks: torch.Tensor, scales: torch.Tensor) -> QuantizedStack | None:
    """Return experts' weights in 4-bit floats, which the model has transposed; None if a scale is
    beyond what 16 bits can hold.

    blocks: [experts, outputs, blocks, 16], two codes a byte. scales: [experts, outputs, blocks].
    """
    exponents = scales.numpy()
    used = exponents[exponents > 0]
    if used.size and not _LEAST_EXPONENT <= used.min() <= used.max() <= _GREATEST_EXPONENT:
        return None
    return _mxfp4(blocks, scales)


def mxfp4_floats(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the same weights expanded, [experts, inputs, outputs]."""
    stack = _mxfp4(blocks, scales)
    return torch.stack([stack.dequantize(number, dtype) for number in range(len(blocks))])


def _mxfp4(blocks: torch.Tensor, scales: torch.Tensor) -> QuantizedStack:
    _, outputs, count, _ = blocks.shape
    shape, rows = (outputs, count * BLOCK), np.arange(outputs)
    return QuantizedStack(
        [
            (QuantizedTensor("mxfp4", shape, _mxfp4_rows(codes, powers, rows, shape)),)
            for codes, powers in zip(blocks.numpy(), scales.numpy(), strict=True)
        ],
        transposed=True,
    )


def _mxfp4_rows(codes: Bytes, powers: Bytes, rows: Rows, shape: tuple[int, int]) -> ConvertedRows:
    def convert(chosen: Rows) -> Bytes:
        data = codes[chosen]
        each = unpack(data.reshape(-1, data.shape[-1]), 4).reshape(*data.shape[:-1], BLOCK)
        half = BLOCK // 2
        packed = each[..., :half] | each[..., half:] << np.uint8(4)
        return np.concatenate([powers[chosen][..., None], packed], axis=-1).reshape(len(data), -1)

    return ConvertedRows(convert, rows, row_bytes("mxfp4", shape[1]))
