"""Faster products with a linear layer's weight on a CPU.

torch's plain product reads a weight as it lies in memory. oneDNN has layouts of its own, in which
it reads each cache line once; int8 weights are a half or a quarter of the bytes.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from headrace.workers.linear.quantization import (
    Int8Product,
    dequantize_weight,
    int8_dynamic_product,
    int8_product,
    quantize_weight,
)
from headrace.workers.linear.row_counts import with_rounded_rows
from headrace.workers.quantized.encode import quantize
from headrace.workers.quantized.formats import BLOCK_FORMATS

INT8_PRODUCTS: dict[str, Int8Product] = {
    "int8": int8_product,
    "int8_dynamic": int8_dynamic_product,
}
_CHECK_ROWS = 5
# The largest error of a correct product, relative to the spread that its results can have.
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.02}
_INT8_TOLERANCE = 0.05


class Product(Protocol):
    """A product with one weight [N, K] and its bias. nbytes: the weight's size in memory."""

    nbytes: int

    def __call__(self, rows: Tensor) -> Tensor:
        """Compute [..., K] → [..., N], in the dtype of `rows`."""
        ...


class PackedProduct:
    """A weight in oneDNN's layout, in its own dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.nbytes = weight.nbytes
        self._bias = bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)

    def __call__(self, rows: Tensor) -> Tensor:
        return with_rounded_rows(self._multiply, rows)

    def _multiply(self, rows: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight, self._bias, "none", [], ""
        )
        return product


class PlainProduct:
    """torch's own product with a weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.nbytes = weight.nbytes
        self._weight, self._bias = weight, bias

    def __call__(self, rows: Tensor) -> Tensor:
        return functional.linear(rows, self._weight, self._bias)


class QuantizedProduct:
    """A weight of 8-bit integers; see headrace.workers.linear.quantization."""

    def __init__(self, weight: Tensor, bias: Tensor | None, quantization: str) -> None:
        self._values, self._scales = quantize_weight(weight)
        self.nbytes = self._values.nbytes + self._scales.nbytes
        self._bias = bias
        self._product = INT8_PRODUCTS[quantization]

    def __call__(self, rows: Tensor) -> Tensor:
        return with_rounded_rows(self._multiply, rows)

    def _multiply(self, rows: Tensor) -> Tensor:
        product = self._product(rows.reshape(-1, rows.shape[-1]), self._values, self._scales)
        if self._bias is not None:
            product += self._bias
        return product.to(rows.dtype).reshape(*rows.shape[:-1], len(self._scales))

    def weight(self) -> Tensor:
        """Return the dequantized weight [N, K], in float32."""
        return dequantize_weight(self._values, self._scales)


def can_pack(dtype: torch.dtype) -> bool:
    """Return whether this CPU has packed products of the dtype."""
    if not torch._C._has_mkldnn:
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def make_product(weight: Tensor, bias: Tensor | None, quantization: str | None) -> Product | None:
    """Return the fastest product with a weight [N, K]; None to keep torch's plain one.

    torch has no products with weights in blocks: those are rounded as blocks are, but keep their
    type. Each product is tested against the plain one. Raises ValueError if a quantized one is
    wrong on this CPU.
    """
    if quantization in BLOCK_FORMATS:
        weight = quantize(quantization, weight).dequantize().to(weight.dtype)
        return make_product(weight, bias, None) or PlainProduct(weight, bias)
    if quantization is not None:
        quantized = QuantizedProduct(weight, bias, quantization)
        rounded = quantized.weight().to(weight.dtype)
        if not is_correct(quantized, rounded, bias, _INT8_TOLERANCE):
            raise ValueError("8-bit integer products are wrong on this CPU")
        return quantized
    if not can_pack(weight.dtype):
        return None
    packed = PackedProduct(weight, bias)
    return packed if is_correct(packed, weight, bias, _TOLERANCES[weight.dtype]) else None


def is_correct(product: Product, weight: Tensor, bias: Tensor | None, tolerance: float) -> bool:
    """Return whether one row and several rows give the results of torch's plain product."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn((_CHECK_ROWS, weight.shape[1]), generator=generator).to(weight.dtype)
    return all(_is_near(product(part), part, weight, bias, tolerance) for part in (rows[:1], rows))


def _is_near(
    ours: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, tolerance: float
) -> bool:
    plain = functional.linear(rows, weight, bias).float()
    if ours.shape != plain.shape or ours.dtype != rows.dtype:
        return False
    error = (ours.float() - plain).square().mean().sqrt()
    spread = weight.float().square().sum(dim=1).mean().sqrt()  # of unit normal rows
    return bool(error <= tolerance * spread)
