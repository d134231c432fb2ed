"""Let models that compute attention in code of their own call transformers' interface instead.

BLOOM, MPT, Falcon and GPT-Neo are older than the interface. While a paged attention is set as the
model's, their layers' forward passes are replaced by ones that project as theirs do, and call it;
with any other, they run as transformers has them.
"""

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from headrace.workers.attention.backend import KeyBias

_Attend = Callable[..., tuple[torch.Tensor, Any]]


def connect_older_layers(model: PreTrainedModel, prefix: str) -> None:
    """Replace the forward passes of a model's layers, if they do not call the interface.

    prefix: of the names of paged attention in transformers' registry.
    """
    for module in model.modules():
        forward = _FORWARDS.get(type(module).__name__)
        if forward is not None:
            module.forward = partial(_run, model.config, prefix, module, forward)


def reference_attention(model: PreTrainedModel) -> str:
    """Return the name of transformers' own attention that computes what the model's authors mean.

    Falcon's "eager" adds ALiBi's biases twice: to the mask and to the scores (transformers 5.24).
    """
    names = {type(module).__name__ for module in model.modules()}
    return "sdpa" if "FalconAttention" in names else "eager"


def _run(config: Any, prefix: str, module: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    name = config._attn_implementation
    if not name.startswith(prefix):
        return type(module).forward(module, *args, **kwargs)
    attend = ALL_ATTENTION_FUNCTIONS[name]
    return forward(config, module, partial(_attend, attend, module), *args, **kwargs)


def _attend(attend: _Attend, module: Any, *heads: torch.Tensor, **options: Any) -> torch.Tensor:
    """Attend with query, key and value [1, heads, rows, dim]; returns [1, rows, heads * dim]."""
    output, _ = attend(module, *heads, None, **options)
    return output.flatten(2)


def _bloom(
    config: Any,
    module: Any,
    attend: Callable[..., torch.Tensor],
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    heads = module._reshape(module.query_key_value(hidden_states))
    bias = KeyBias(_bloom_slopes(module.num_heads), torch.float32, 1.0)
    output = attend(*heads, scaling=module.inv_norm_factor, key_bias=bias)
    return module.dense(output) + residual, None


def _falcon(
    config: Any,
    module: Any,
    attend: Callable[..., torch.Tensor],
    hidden_states: torch.Tensor,
    alibi: torch.Tensor | None = None,
    position_embeddings: Any = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    split = module._split_heads(module.query_key_value(hidden_states))
    query, key, value = (part.transpose(1, 2) for part in split)
    if module.new_decoder_architecture:  # heads that share a key have copies of it
        shared = module.num_heads // module.num_kv_heads
        key, value = key[:, ::shared], value[:, ::shared]
    bias = None
    if alibi is None:
        rotate = importlib.import_module(type(module).__module__).apply_rotary_pos_emb
        query, key = rotate(query, key, *position_embeddings)
    else:
        slopes = _bloom_slopes(module.num_heads)
        bias = KeyBias(slopes, torch.bfloat16, module.inv_norm_factor)
    output = attend(query, key, value, scaling=module.inv_norm_factor, key_bias=bias)
    return module.dense(output), None


def _mpt(
    config: Any,
    module: Any,
    attend: Callable[..., torch.Tensor],
    hidden_states: torch.Tensor,
    position_bias: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    mixed = module.Wqkv(hidden_states)
    if module.clip_qkv:
        mixed = mixed.clamp(-module.clip_qkv, module.clip_qkv)
    heads = [
        part.unflatten(-1, (module.n_heads, module.head_dim)).transpose(1, 2)
        for part in mixed.chunk(3, dim=-1)
    ]
    bias = None
    if position_bias is not None:
        # Of two neighbouring keys: the biases themselves are counted from the last position on.
        slopes = (position_bias[:, 0, -1] - position_bias[:, 0, -2]).float()
        bias = KeyBias(slopes, torch.float32, 1.0)
    output = attend(*heads, scaling=module.softmax_scale, key_bias=bias)
    return module.out_proj(output), None


def _gpt_neo(
    config: Any,
    module: Any,
    attend: Callable[..., torch.Tensor],
    hidden_states: torch.Tensor,
    *args: Any,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    heads = [
        projection(hidden_states).unflatten(-1, (module.num_heads, module.head_dim)).transpose(1, 2)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    ]
    window = config.window_size if module.attention_type == "local" else None
    output = attend(*heads, scaling=1.0, sliding_window=window)
    return module.out_proj(output), None


def _bloom_slopes(heads: int) -> torch.Tensor:
    """Return the slopes of `heads` heads [heads] by the rule of Press et al. (2022): a geometric
    sequence for a power of two, and for other numbers every second one of the next power's too."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = _sequence(power, 1)
    if power < heads:
        slopes = torch.cat([slopes, _sequence(2 * power, 2)[: heads - power]])
    return slopes


def _sequence(count: int, step: int) -> torch.Tensor:
    base = torch.tensor(2.0 ** -(2.0 ** -(math.log2(count) - 3)), dtype=torch.float32)
    return torch.pow(base, torch.arange(1, 1 + count, step, dtype=torch.int32))


_FORWARDS: dict[str, Callable[..., tuple[torch.Tensor, None]]] = {
    "BloomAttention": _bloom,
    "FalconAttention": _falcon,
    "MptAttention": _mpt,
    "GPTNeoSelfAttention": _gpt_neo,
}
