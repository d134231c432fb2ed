"""Attend within each of several texts that lie in one row, without padding.

transformers' models call an attention function of this name for every layer. Texts of one length
lie next to each other, so that they are one call; each computes what it would alone.
"""

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headrace.workers.errors import ModelUnsupported

_numbers = itertools.count()
_HARMLESS_TENSORS = frozenset({"position_ids", "cache_position"})


@dataclass(frozen=True, slots=True)
class TextGroup:
    """Texts of one length: `count` of them, from row `start` on."""

    start: int
    count: int
    length: int

    @property
    def end(self) -> int:
        """The row after them."""
        return self.start + self.count * self.length


class TextAttention:
    """The attention of one model, under a name of its own in transformers' registry.

    calls: how many layers have called it since the model was made.
    """

    def __init__(self) -> None:
        self.name = f"headrace_varlen_{next(_numbers)}"
        self.calls = 0
        self._groups: list[TextGroup] = []
        self._report: Callable[[], None] = lambda: None
        attend = weakref.WeakMethod(self._attend)

        def call(*args: Any, **options: Any) -> tuple[Tensor, None]:
            method = attend()
            assert method is not None, "the model has outlived its attention"
            return method(*args, **options)

        ALL_ATTENTION_FUNCTIONS.register(self.name, call)

    def prepare(self, groups: list[TextGroup], report: Callable[[], None]) -> None:
        """Set the texts of the next forward pass. report: called after each layer's attention."""
        self._groups, self._report = groups, report

    def _attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        is_causal: bool | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        """Attend: query [1, heads, rows, dim], key and value [1, kv_heads, rows, dim] →
        [1, rows, heads, dim]."""
        if attention_mask is not None or softcap is not None or s_aux is not None:
            raise ModelUnsupported("its attention needs more than queries, keys and values")
        for name, other in others.items():
            if isinstance(other, Tensor) and name not in _HARMLESS_TENSORS:
                raise ModelUnsupported(f"its attention needs {name}")
        if query.shape[2] != key.shape[2]:
            raise ModelUnsupported("it attends to something other than its own tokens")
        causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
        _, heads, rows, _ = query.shape
        output = query.new_zeros((rows, heads, value.shape[3]))
        for group in self._groups:
            part = _attend_group(group, query[0], key[0], value[0], causal, scaling, sliding_window)
            place = output[group.start : group.end]
            place.view(group.count, group.length, heads, -1).copy_(part.transpose(1, 2))
        self.calls += 1
        self._report()
        return output.unsqueeze(0), None


def _attend_group(
    group: TextGroup,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Return the attention [texts, heads, length, dim] of texts of one length."""
    rows = slice(group.start, group.end)
    shape = (-1, group.count, group.length)
    query, key, value = (
        part[:, rows].view(*shape, part.shape[-1]).transpose(0, 1) for part in (query, key, value)
    )
    mask = None
    if window is not None and window < group.length:
        places = torch.arange(group.length, device=query.device)
        distance = places.unsqueeze(1) - places
        mask = (distance < window) & (distance >= 0 if causal else distance > -window)
    attention: Tensor = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal and mask is None, scale=scaling
    )
    return attention
