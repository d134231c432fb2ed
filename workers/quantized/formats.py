"""Formats of quantized blocks: their sizes, and how their codes become numbers."""

from dataclasses import dataclass

import torch

BLOCK = 32  # inputs that have a scale in common, but for q6_k, where it is half of them
SUPER_BLOCK = 256  # inputs of a block that scales its scales

FLOAT_FORMATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One format: weight = scale * (code - offset) - minimum, or scale * codebook[code].

    inputs, num_bytes: of one block in a file.
    bits: of a code. scales: of 32 inputs (2 in q6_k).
    has_minimums: whether a block has a minimum beside its scale.
    has_super_scales: whether scales and minimums are small integers with a common scale for each
        256 inputs.
    codebook: the numbers that codes stand for, plus `offset`; None: themselves.
    """

    inputs: int
    num_bytes: int
    bits: int
    offset: int = 0
    scales: int = 1
    has_minimums: bool = False
    has_super_scales: bool = False
    codebook: tuple[int, ...] | None = None


# Of IQ4_NL: steps that are wider for greater magnitudes (llama.cpp).
_NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# Twice the numbers of 4-bit floats with two bits of exponent, OCP Microscaling Formats 1.0.
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

BLOCK_FORMATS: dict[str, BlockFormat] = {
    "q8_0": BlockFormat(BLOCK, 34, bits=8, offset=128),
    "q4_0": BlockFormat(BLOCK, 18, bits=4, offset=8),
    "q4_1": BlockFormat(BLOCK, 20, bits=4, has_minimums=True),
    "q5_0": BlockFormat(BLOCK, 22, bits=5, offset=16),
    "q5_1": BlockFormat(BLOCK, 24, bits=5, has_minimums=True),
    "q4_k": BlockFormat(SUPER_BLOCK, 144, bits=4, has_minimums=True, has_super_scales=True),
    "q5_k": BlockFormat(SUPER_BLOCK, 176, bits=5, has_minimums=True, has_super_scales=True),
    "q6_k": BlockFormat(SUPER_BLOCK, 210, bits=6, offset=32, scales=2, has_super_scales=True),
    "iq4_nl": BlockFormat(BLOCK, 18, bits=4, offset=128, codebook=_NON_LINEAR),
    # Of no file: what integers of 8 bits with zero points become.
    "q8_m": BlockFormat(BLOCK, 36, bits=8, offset=128, has_minimums=True),
    "mxfp4": BlockFormat(BLOCK, 17, bits=4, offset=16, codebook=_E2M1),
}
