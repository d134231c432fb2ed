"""The keys or the values of one layer's cache, in torch's operations."""

from typing import Protocol

import torch

from headrace.workers.attention.cache_dtype import CacheDtype, has_scales

_LARGEST = {"int8": 127.0, "fp8": 448.0}
_LEAST_FP8 = 2.0**-6  # smaller numbers would have fewer bits; the kernels make them zero
_LEAST_SCALE = 1e-35


class CachedHeads(Protocol):
    """What is cached for each slot: [heads, dim]."""

    def write(self, slots: torch.Tensor, heads: torch.Tensor) -> None:
        """Write [slots, heads, dim] to these slots."""
        ...

    def read(self, slots: torch.Tensor) -> torch.Tensor:
        """Return what is in these slots, in the model's dtype."""
        ...

    def as_read(self, heads: torch.Tensor) -> torch.Tensor:
        """Return the numbers as they would be read after `write`."""
        ...


def make_cached_heads(
    slots: int, heads: int, dim: int, dtype: torch.dtype, cache: CacheDtype, device: torch.device
) -> CachedHeads:
    """Return an empty cache for a model of this dtype.

    It is not zeroed, which would touch gigabytes at the start: no slot is read before it is
    written.
    """
    if has_scales(cache):
        codes = torch.empty((slots, heads, dim), dtype=torch.int8, device=device)
        scales = torch.empty((slots, heads), dtype=torch.bfloat16, device=device)
        return _RoundedHeads(codes, scales, dtype, cache)
    stored = getattr(torch, cache)
    return _ExactHeads(torch.empty((slots, heads, dim), dtype=stored, device=device), dtype)


class _ExactHeads:
    """Numbers in a dtype of torch."""

    def __init__(self, cached: torch.Tensor, dtype: torch.dtype) -> None:
        self._cached, self._dtype = cached, dtype

    def write(self, slots: torch.Tensor, heads: torch.Tensor) -> None:
        self._cached.index_copy_(0, slots, heads.to(self._cached.dtype))

    def read(self, slots: torch.Tensor) -> torch.Tensor:
        return self._cached.index_select(0, slots).to(self._dtype)

    def as_read(self, heads: torch.Tensor) -> torch.Tensor:
        return heads.to(self._cached.dtype).to(self._dtype)


class _RoundedHeads:
    """Codes of 8 bits with a scale for each slot and head."""

    def __init__(
        self, codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype, cache: CacheDtype
    ) -> None:
        self._codes, self._scales, self._dtype, self._cache = codes, scales, dtype, cache

    def write(self, slots: torch.Tensor, heads: torch.Tensor) -> None:
        codes, scales = round_heads(heads, self._cache)
        self._codes.index_copy_(0, slots, codes)
        self._scales.index_copy_(0, slots, scales)

    def read(self, slots: torch.Tensor) -> torch.Tensor:
        codes, scales = self._codes.index_select(0, slots), self._scales.index_select(0, slots)
        return _numbers(codes, scales, self._cache).to(self._dtype)

    def as_read(self, heads: torch.Tensor) -> torch.Tensor:
        return _numbers(*round_heads(heads, self._cache), self._cache).to(self._dtype)


def round_heads(heads: torch.Tensor, cache: CacheDtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Round [..., dim] to codes [..., dim], as int8, and scales [...], as the kernels do."""
    numbers = heads.float()
    scales = numbers.abs().amax(dim=-1) / _LARGEST[cache]
    scales = torch.where(scales < _LEAST_SCALE, 0.0, scales).bfloat16()
    inverse = torch.where(scales == 0, 0.0, 1.0 / scales.float())
    numbers = numbers * inverse.unsqueeze(-1)
    if cache == "int8":
        return numbers.round().to(torch.int8), scales
    numbers = torch.where(numbers.abs() < _LEAST_FP8, 0.0, numbers)
    return numbers.to(torch.float8_e4m3fn).view(torch.int8), scales


def _numbers(codes: torch.Tensor, scales: torch.Tensor, cache: CacheDtype) -> torch.Tensor:
    numbers = codes if cache == "int8" else codes.view(torch.float8_e4m3fn)
    return numbers.float() * scales.float().unsqueeze(-1)
