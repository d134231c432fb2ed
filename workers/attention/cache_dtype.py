"""The types of numbers that the paged cache holds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

import torch

from headrace.workers.attention.backend import KVLayerShape

if TYPE_CHECKING:  # pydantic is not needed to run a model
    from headrace.protocol.config import KvCacheDtype

# int8 and fp8 (e4m3) have a scale in bfloat16 for each token, head, and key or value.
CacheDtype = Literal["float32", "float16", "bfloat16", "int8", "fp8"]

_SCALES_BYTES = 4  # of a key and a value
_ITEM_BYTES: dict[CacheDtype, int] = {
    "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "fp8": 1,
}  # fmt: skip


def choose_cache_dtype(option: "KvCacheDtype", dtype: torch.dtype) -> CacheDtype:
    """Return the type of the cache of a model of this dtype."""
    if option != "auto":
        return option
    return cast(CacheDtype, str(dtype).removeprefix("torch."))


def has_scales(dtype: CacheDtype) -> bool:
    """Return whether the numbers have 8 bits, and scales."""
    return dtype in ("int8", "fp8")


def token_bytes(layers: Sequence[KVLayerShape], dtype: CacheDtype) -> int:
    """Return the size of a token in the caches of all layers."""
    size = sum(layer.elements for layer in layers) * _ITEM_BYTES[dtype]
    if has_scales(dtype):
        size += sum(layer.kv_heads for layer in layers) * _SCALES_BYTES
    return size
