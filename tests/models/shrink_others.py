"""Shrink the configurations of what reads pictures and sound: built and saved, but never run."""

from collections.abc import Mapping
from typing import Any

from tests.models.overrides_of_others import OVERRIDES_OF_OTHERS
from tests.models.shape import Shape
from tests.models.shrink import HIDDEN, Values, keep_layers
from tests.models.size_keys import (
    EXPERT_INNER,
    EXPERTS,
    HEAD_DIMS,
    HEADS,
    INNER,
    KV_HEADS,
    LAYERS,
    TOP_EXPERTS,
    WIDTHS,
)

_SIZES = {
    **dict.fromkeys((*WIDTHS, "embed_dim", "hidden_dim"), HIDDEN),
    **dict.fromkeys((*INNER, *EXPERT_INNER, "mlp_dim"), 32),
    **dict.fromkeys((*HEADS, *KV_HEADS), 2),
    **dict.fromkeys(HEAD_DIMS, 16),
    **dict.fromkeys(LAYERS, 2),
    **dict.fromkeys(EXPERTS, 2),
    **dict.fromkeys(TOP_EXPERTS, 1),
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
