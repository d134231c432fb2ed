"""Quantize weights to 8 bits, and multiply rows with them on a CPU.

A weight has one float32 scale per output channel and is symmetric about zero. The products run on
integers throughout, so the rows are rounded too: once to 8 bits ("int8_dynamic", each row by its
own largest value), or to two 8-bit parts ("int8"), a coarse one and one for the remainder, so that
the rows lose no more than in bfloat16.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

INT8_MAX = 127  # of a symmetric 8-bit integer
_FINE_STEPS = 2 * INT8_MAX  # of the second 8 bits in one step of the first
_FEW_ROWS = 48  # up to this many, two integer products are faster than one in bfloat16
_CONVERTED_ELEMENTS = 4 * 1024 * 1024  # elements of a weight converted to bfloat16 at a time
_MIN_ROW_SCALE = 1e-30  # keeps rows of zeros from being divided by zero

Int8Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 values [N, K] and float32 scales [N] with weight ≈ values * scales.

    Each channel's largest magnitude becomes 127. Channels of zeros have the scale 1.
    """
    exact = weight.detach().float()
    scales = exact.abs().amax(dim=1) / INT8_MAX
    scales = torch.where(scales > 0, scales, 1.0)
    values = (exact / scales.unsqueeze(1)).round_().clamp_(-INT8_MAX, INT8_MAX)
    return values.to(torch.int8), scales


def dequantize_weight(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the float32 weight [N, K] of quantized values."""
    return values.float() * scales.unsqueeze(1)


def int8_product(rows: torch.Tensor, values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Multiply rows [M, K] with a quantized weight: [M, N], in float32 or in the rows' dtype.

    Rows are rounded to 16 bits; sums of integers are exact in 32 bits for K up to 133,000. For many
    rows in bfloat16 the weight is converted to bfloat16, which holds 8-bit integers exactly.
    """
    if rows.dtype == torch.bfloat16 and len(rows) > _FEW_ROWS:
        return _converted_product(rows, values, scales)
    scaled = rows.float()
    row_scales = _row_scales(scaled)
    scaled = scaled.div_(row_scales) if rows.dtype != torch.float32 else scaled / row_scales
    coarse = scaled.round()
    fine = scaled.sub_(coarse).mul_(_FINE_STEPS).round_()
    result = torch._int_mm(fine.to(torch.int8), values.t()) * (1 / _FINE_STEPS)
    result += torch._int_mm(coarse.to(torch.int8), values.t())
    return result.mul_(scales).mul_(row_scales)


def _converted_product(
    rows: torch.Tensor, values: torch.Tensor, scales: torch.Tensor
) -> torch.Tensor:
    """Multiply rows [M, K] with a quantized weight in the rows' dtype, some channels at a time."""
    size = max(1, _CONVERTED_ELEMENTS // rows.shape[1])
    parts = []
    for start in range(0, len(values), size):
        part = functional.linear(rows, values[start : start + size].to(rows.dtype))
        parts.append(torch.mul(part, scales[start : start + size], out=part))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def int8_dynamic_product(
    rows: torch.Tensor, values: torch.Tensor, scales: torch.Tensor
) -> torch.Tensor:
    """Multiply rows [M, K] with a quantized weight: float32 [M, N]; rows are rounded to 8 bits."""
    scaled = rows.float()
    row_scales = _row_scales(scaled)
    scaled = scaled.div_(row_scales) if rows.dtype != torch.float32 else scaled / row_scales
    sums = torch._int_mm(scaled.round_().to(torch.int8), values.t())
    return (sums * scales).mul_(row_scales)


def _row_scales(rows: torch.Tensor) -> torch.Tensor:
    return rows.abs().amax(dim=1, keepdim=True).div_(INT8_MAX).clamp_(min=_MIN_ROW_SCALE)
