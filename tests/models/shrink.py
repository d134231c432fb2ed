"""Shrink an architecture's default configuration to a tiny one that keeps each kind of layer."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from tests.models.shape import Shape
from tests.models.size_keys import (
    EXPERT_INNER,
    EXPERTS,
    FACTORS,
    HEAD_DIMS,
    HEADS,
    INNER,
    KV_HEADS,
    LAYERS,
    LENGTHS,
    PLAIN,
    SMALL,
    TOP_EXPERTS,
    VOCAB,
    WIDTHS,
    WINDOWS,
)

Values = dict[str, Any]
HIDDEN = 32  # of what reads pictures and sound
RESERVED = 12  # the last token ids of a vocabulary: of pictures and such, in no prompt

_ROPE_KEYS = ("rope_parameters", "rope_scaling")


def shrink_text(default: Mapping[str, Any], shape: Shape) -> Values:
    """Return a text configuration's values at a shape's sizes."""
    values = {key: _shrunk(key, value, shape) for key, value in default.items()}
    values |= {key: value for key, value in PLAIN.items() if key in default}
    _fit_heads(values, default, shape)
    keep_layers(values, default, shape.layers)
    for key in _ROPE_KEYS:
        if isinstance(values.get(key), dict):
            values[key] = _rope(default[key], values, shape)
    if "tie_word_embeddings" in default:
        values["tie_word_embeddings"] = shape.ties
    return values


def _shrunk(key: str, value: Any, shape: Shape) -> Any:
    if key.endswith(("token_id", "token_ids", "token_index", "token_indices")):
        return _token(key, value, shape)
    by_size: list[tuple[list[str], int]] = [
        (WIDTHS, shape.hidden), (INNER, shape.inner), (EXPERT_INNER, 32),
        (LAYERS, shape.layers), (HEADS, shape.heads), (KV_HEADS, shape.kv_heads),
        (HEAD_DIMS, shape.head_dim), (VOCAB, shape.vocab), (LENGTHS, shape.length),
        (WINDOWS, shape.window), (EXPERTS, shape.experts), (TOP_EXPERTS, shape.top_experts),
    ]  # fmt: skip
    if value is None and key in ("head_dim", "num_key_value_heads"):
        return shape.head_dim if key == "head_dim" else shape.kv_heads
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, list) and key in INNER + EXPERT_INNER:
        return [_shrunk(key, each, shape) for each in value]
    if not isinstance(value, int | float):
        return value
    for keys, size in by_size:
        if key in keys:
            return size if value else value
    if key in FACTORS and value == 1.0:
        return FACTORS[key]
    if key in SMALL and value > SMALL[key]:
        return SMALL[key]
    return FACTORS.get(key, value) if key in ("attn_scale",) else value


def _token(key: str, value: Any, shape: Shape) -> Any:
    """Return marks among the reserved ids, so that no text holds or ends with one."""
    first = shape.vocab - RESERVED
    if isinstance(value, list):
        return [first + number % RESERVED for number in range(len(value))]
    return first + sum(map(ord, key)) % RESERVED if isinstance(value, int) else value


def keep_layers(values: Values, default: Mapping[str, Any], layers: int) -> None:
    """Keep one layer of each kind, and further ones up to `layers`, in their order.

    A kind is what all lists with a value for each layer, and `per_layer_config`, say of it. Lists
    of layers' own numbers are numbered anew.
    """
    count_key = next((key for key in LAYERS if key in default), "layer_types")
    kinds_of_layers = default.get("layer_types")
    count = int(len(kinds_of_layers) if kinds_of_layers else default.get(count_key) or 0)
    lists = {
        key: value
        for key, value in default.items()
        if isinstance(value, list) and len(value) == count and count > 1
    }
    if not lists:
        return
    own = {int(key): value for key, value in (default.get("per_layer_config") or {}).items()}
    numbered = [key for key, value in lists.items() if value == list(range(count))]
    kinds: dict[str, int] = {}
    for number in range(count):
        told = [value[number] for key, value in lists.items() if key not in numbered]
        kinds.setdefault(str([told, own.get(number)]), number)
    further = (number for number in range(count) if number not in kinds.values())
    wanted = max(layers, len(kinds)) - len(kinds)
    chosen = sorted([*kinds.values(), *itertools.islice(further, wanted)])
    for key, value in lists.items():
        shrunk = values[key] if isinstance(values[key], list) else value
        values[key] = [shrunk[number] for number in chosen]
        if key in numbered:
            values[key] = list(range(len(chosen)))
    if count_key != "layer_types":
        values[count_key] = len(chosen)
    if own:
        values["per_layer_config"] = {
            place: _scaled(own[number], default, values)
            for place, number in enumerate(chosen)
            if number in own
        }


def _scaled(own: Values, default: Mapping[str, Any], values: Values) -> Values:
    """Return what a layer has of its own, as many times the rest's as by default."""
    return {
        key: max(1, value * values[key] // default[key])
        if isinstance(value, int) and not isinstance(value, bool) and default.get(key)
        else value
        for key, value in own.items()
    }


def _fit_heads(values: Values, default: Mapping[str, Any], shape: Shape) -> None:
    """Make the numbers of heads and their sizes fit each other."""
    if default.get("kv_lora_rank"):
        for key in set(KV_HEADS) & set(default):
            values[key] = shape.heads
        if "head_dim" in default and "qk_rope_head_dim" in default:
            values["head_dim"] = values["qk_rope_head_dim"]
        return
    factor = _rotary_share(default)
    has_own = any(key in default for key in HEAD_DIMS)
    dim = shape.head_dim if has_own else shape.hidden // shape.heads
    while int(dim * factor) % 2 or int(dim * factor) == 0 or dim % 2:
        dim += 2 if dim % 2 == 0 else 1
    for key in HEAD_DIMS:
        if key in default:
            values[key] = dim
    if not has_own and dim * shape.heads != shape.hidden:
        for key in WIDTHS:
            if key in default and isinstance(default[key], int):
                values[key] = dim * shape.heads


def _rotary_share(default: Mapping[str, Any]) -> float:
    shares: list[float] = []

    def find(values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if key in ("partial_rotary_factor", "rotary_pct") and isinstance(value, float):
                shares.append(value)
            elif isinstance(value, dict) and key in (*_ROPE_KEYS, *_LAYER_KINDS):
                find(value)

    find(default)
    return min(shares, default=1.0)


_LAYER_KINDS = ("full_attention", "sliding_attention", "main", "compress", "chunked_attention")


def _rope(default: Values, values: Values, shape: Shape) -> Values:
    """Return rope's options: with the sections of pictures fitted to the head, if there are any."""
    rope = {
        key: _rope(value, values, shape) if isinstance(value, dict) else value
        for key, value in default.items()
    }
    if "original_max_position_embeddings" in rope:
        rope["original_max_position_embeddings"] = 64
    for key in ("short_factor", "long_factor"):
        if key in rope:
            rope.pop(key)
    if rope.get("mrope_section"):
        dim = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
        rope["mrope_section"] = sections(int(dim * rope.get("partial_rotary_factor", 1.0)) // 2)
    return rope


def sections(pairs: int) -> list[int]:
    """Return three sections of rotary pairs, for times, rows and columns."""
    side = pairs // 3
    return [pairs - 2 * side, side, side]


Change = Callable[[Values, Shape], None]
