"""Weights that are mapped from a file in one dtype and stand for the same numbers in another.

They are converted where they are packed, so that a worker which finds them packed reads none.
"""

import torch

_ATTRIBUTE = "_headrace_dtype"


def stand_for(stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Mark a tensor as one of another dtype; return it."""
    setattr(stored, _ATTRIBUTE, dtype)
    return stored


def dtype_of(tensor: torch.Tensor) -> torch.dtype:
    """Return the dtype of the numbers that a tensor stands for."""
    dtype: torch.dtype = getattr(tensor, _ATTRIBUTE, tensor.dtype)
    return dtype
