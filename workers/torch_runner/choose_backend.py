"""Choose a model's attention backend on its device, and a block size that suits it."""

import importlib.util
from dataclasses import dataclass
from functools import partial

import torch

from headrace.workers.attention.backend import BackendFactory
from headrace.workers.attention.cache_dtype import CacheDtype
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.attention.sdpa import SdpaBackend
from headrace.workers.attention.varlen import PAGE_SIZE, VarlenBackend
from headrace.workers.attention.varlen_call import VarlenAttention, has_block_tables, torch_varlen
from headrace.workers.attention.varlen_check import LayerKind, attends_correctly

_MIN_CAPABILITY = (8, 0)  # FlashAttention 2 needs Ampere
_MAX_HEAD_DIM = 256
_TRITON_PAGE = 64  # tokens: our kernel reads pages of any size, but small ones make long tables


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """The attention backend of a model.

    name: for the operator. block_size: of the cache, in tokens.
    overlaps: whether the backend never waits for the device.
    graphs: whether its decodes can be captured in CUDA graphs.
    plans_by_length: whether a captured decode is slow for sequences much shorter than the longest
        that it was captured for.
    """

    name: str
    make: BackendFactory
    block_size: int
    overlaps: bool = False
    graphs: bool = False
    plans_by_length: bool = False


def choose_backend(
    hook: AttentionHook,
    dtype: torch.dtype,
    device: torch.device,
    block_size: int,
    attention: VarlenAttention = torch_varlen,
    cache_dtype: CacheDtype | None = None,
) -> BackendChoice:
    """Return the fastest backend on this device that supports all the model's layers.

    block_size: as configured; rounded up to a multiple that the kernel's pages require.
    cache_dtype: of the cache, on a CPU; None: the model's.
    """
    make = partial(SdpaBackend, cache_dtype=cache_dtype)
    plain = BackendChoice("SDPA over gathered keys", make, block_size)
    if not _supports_flash_attention(device) or not supports_varlen(hook, dtype):
        return plain
    return choose_varlen(hook, dtype, device, block_size, attention) or plain


def choose_varlen(
    hook: AttentionHook,
    dtype: torch.dtype,
    device: torch.device,
    block_size: int,
    attention: VarlenAttention,
) -> BackendChoice | None:
    """Return variable-length attention that computes correctly here; None if there is none.

    Decodes read pages with torch's attention, else with our Triton kernel, else keys are gathered.
    """
    kinds = set(map(LayerKind, hook.heads, hook.layers, hook.options))

    def choice(name: str, call: VarlenAttention, page: int, *, paged: bool) -> BackendChoice | None:
        size = -(-block_size // page) * page
        for kind in kinds:
            if not attends_correctly(kind, dtype, device, call, paged=paged, page_size=size):
                return None
        make = partial(VarlenBackend, paged=paged, attention=call)
        return BackendChoice(name, make, size, True, paged, paged and call is not triton)

    triton = find_triton_decode()
    paged = None
    if has_block_tables():
        paged = choice("torch's varlen attention over pages", attention, PAGE_SIZE, paged=True)
    if paged is None and triton is not None:
        paged = choice("varlen attention, Triton over pages", triton, _TRITON_PAGE, paged=True)
    return paged or choice("varlen attention over gathered keys", attention, 1, paged=False)


def find_triton_decode() -> VarlenAttention | None:
    """Return our Triton decode kernel if Triton is installed (torch's CUDA builds include it)."""
    if importlib.util.find_spec("triton") is None:
        return None
    from headrace.workers.attention.triton_decode import triton_decode

    return triton_decode


def supports_varlen(hook: AttentionHook, dtype: torch.dtype) -> bool:
    """Return whether FlashAttention supports the layers: 16-bit floats, head sizes, scores."""
    return dtype in (torch.float16, torch.bfloat16) and all(
        shape.key_dim == shape.value_dim
        and shape.key_dim % 8 == 0
        and shape.key_dim <= _MAX_HEAD_DIM
        and options.softcap is None
        and options.sinks is None
        and options.chunk is None
        and options.key_bias is None
        and options.sparse is None
        for shape, options in zip(hook.layers, hook.options, strict=True)
    )


def _supports_flash_attention(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _MIN_CAPABILITY
