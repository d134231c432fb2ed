"""Which attention a model gets on its device, and the blocks that suit it."""

from dataclasses import dataclass
from functools import partial

import torch

from workers.attention.backend import MakeBackend
from workers.attention.hook import AttentionHook
from workers.attention.sdpa import SdpaBackend
from workers.attention.varlen import PAGE_SIZE, VarlenBackend
from workers.attention.varlen_call import VarlenAttention, has_block_tables, torch_varlen
from workers.attention.varlen_check import LayerKind, answers_rightly

_OLDEST_CARD = (8, 0)  # FlashAttention 2 needs Ampere
_WIDEST_HEAD = 256


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """How a model attends.

    name: for the operator. block_size: of the cache, in tokens.
    overlaps: whether the backend never waits for the device.
    graphs: whether its decodes can be captured in CUDA graphs.
    """

    name: str
    make: MakeBackend
    block_size: int
    overlaps: bool = False
    graphs: bool = False


def choose_backend(
    hook: AttentionHook,
    dtype: torch.dtype,
    device: torch.device,
    block_size: int,
    attention: VarlenAttention = torch_varlen,
) -> BackendChoice:
    """The fastest backend that does all that the model's layers need, on this device.

    block_size: as configured; where the kernel reads pages it is rounded up to what that takes.
    """
    plain = BackendChoice("SDPA over gathered keys", SdpaBackend, block_size)
    if not _is_card_for_varlen(device) or not suits_varlen(hook, dtype):
        return plain
    return choose_varlen(hook, dtype, device, block_size, attention) or plain


def choose_varlen(
    hook: AttentionHook,
    dtype: torch.dtype,
    device: torch.device,
    block_size: int,
    attention: VarlenAttention,
) -> BackendChoice | None:
    """Variable-length attention as far as it gives right answers here; None if it does not."""
    kinds = set(map(LayerKind, hook.heads, hook.layers, hook.options))

    def works(paged: bool) -> bool:
        return all(answers_rightly(kind, dtype, device, attention, paged=paged) for kind in kinds)

    if has_block_tables() and works(True):
        pages = -(-block_size // PAGE_SIZE) * PAGE_SIZE
        make = partial(VarlenBackend, paged=True, attention=attention)
        return BackendChoice("varlen attention over pages", make, pages, True, True)
    if works(False):
        make = partial(VarlenBackend, paged=False, attention=attention)
        return BackendChoice("varlen attention over gathered keys", make, block_size, True)
    return None


def suits_varlen(hook: AttentionHook, dtype: torch.dtype) -> bool:
    """Whether FlashAttention has what the layers need: 16-bit floats, head sizes, no softcap."""
    return dtype in (torch.float16, torch.bfloat16) and all(
        shape.key_dim == shape.value_dim
        and shape.key_dim % 8 == 0
        and shape.key_dim <= _WIDEST_HEAD
        and options.softcap is None
        for shape, options in zip(hook.layers, hook.options, strict=True)
    )


def _is_card_for_varlen(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _OLDEST_CARD
