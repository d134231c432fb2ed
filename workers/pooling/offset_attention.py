"""Attention of models that add numbers to scores by how far apart two tokens are.

transformers computes it in the layers of such models themselves. Here they call its attention
interface instead, with one table of these numbers for all texts: it is as long as the longest.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder, MPNetSelfAttention


@contextmanager
def offset_attention(model: nn.Module, name: str, longest: int) -> Iterator[None]:
    """Have layers call an attention function of the interface within the context.

    name: of the function. longest: tokens of a text. Other models are left as they are.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if type(module) is MPNetEncoder:
                _replace_attention(stack, module, name, longest)
        yield


def _replace_attention(stack: ExitStack, encoder: MPNetEncoder, name: str, longest: int) -> None:
    bias = _mpnet_bias(encoder, longest)
    for layer in encoder.modules():
        if type(layer) is MPNetSelfAttention:
            stack.enter_context(_forward_of(layer, _mpnet_attention(layer, name, bias)))


def _mpnet_bias(encoder: MPNetEncoder, longest: int) -> Tensor:
    """Return the numbers [heads, 2 * longest - 1] of distances."""
    table = encoder.relative_attention_bias.weight
    offsets = torch.arange(1 - longest, longest, device=table.device)
    # The number of buckets is the one that the model's own code uses, whatever is configured.
    buckets = encoder.relative_position_bucket(offsets, num_buckets=32)  # type: ignore[no-untyped-call]
    return table[buckets].t().contiguous()


def _mpnet_attention(
    layer: MPNetSelfAttention, name: str, bias: Tensor
) -> Callable[..., tuple[Tensor]]:
    def forward(hidden_states: Tensor, *args: Any, **others: Any) -> tuple[Tensor]:
        shape = (*hidden_states.shape[:-1], layer.num_attention_heads, layer.attention_head_size)
        query, key, value = (
            linear(hidden_states).view(shape).transpose(1, 2)
            for linear in (layer.q, layer.k, layer.v)
        )
        attend = ALL_ATTENTION_FUNCTIONS[name]
        output, _ = attend(layer, query, key, value, None, is_causal=False, offset_bias=bias)
        return (layer.o(output.reshape(hidden_states.shape)),)

    return forward


@contextmanager
def _forward_of(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
