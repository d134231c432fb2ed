"""Shrink the configurations of what reads pictures and sound: built and saved, but never run."""

from collections.abc import Mapping
from typing import Any

from tests.models.overrides import OVERRIDES_OF_OTHERS
from tests.models.shape import Shape
from tests.models.shrink import (
    _EXPERT_INNER,
    _EXPERTS,
    _HEAD_DIMS,
    _HEADS,
    _HIDDEN,
    _INNER,
    _KV_HEADS,
    _LAYERS,
    _TOP_EXPERTS,
    HIDDEN,
    Values,
    keep_layers,
)

_SIZES = {
    **dict.fromkeys((*_HIDDEN, "embed_dim", "hidden_dim"), HIDDEN),
    **dict.fromkeys((*_INNER, *_EXPERT_INNER, "mlp_dim"), 32),
    **dict.fromkeys((*_HEADS, *_KV_HEADS), 2),
    **dict.fromkeys(_HEAD_DIMS, 16),
    **dict.fromkeys(_LAYERS, 2),
    **dict.fromkeys(_EXPERTS, 2),
    **dict.fromkeys(_TOP_EXPERTS, 1),
}
_INDICES = (
    "deepstack_visual_indexes", "fullatt_block_indexes", "global_attn_indexes",
    "intermediate_layers_indices",
)  # fmt: skip
_OF_TEXT = ("out_hidden_size", "text_hidden_size", "projection_dim", "output_dim")


def shrink_other(default: Mapping[str, Any], shape: Shape) -> Values:
    """Return the values of a configuration that is not the text's, and of those within it."""
    values: Values = {}
    for key, value in default.items():
        if isinstance(value, dict) and "model_type" in value:
            values[key] = shrink_other(value, shape)
        elif key in _INDICES and value:
            values[key] = [0]
        elif key in _OF_TEXT and isinstance(value, int):
            values[key] = shape.hidden
        elif key in _SIZES and isinstance(value, int) and not isinstance(value, bool) and value:
            values[key] = _SIZES[key]
        elif key not in ("architectures", "dtype", "transformers_version", "_name_or_path"):
            values[key] = value
    keep_layers(values, default, 1)
    change = OVERRIDES_OF_OTHERS.get(str(default.get("model_type")))
    if change is not None:
        change(values, shape)
    return values
