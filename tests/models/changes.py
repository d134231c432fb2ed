"""Changes of a shrunk configuration that several architectures need."""

from typing import Any

from tests.models.shape import Shape
from tests.models.shrink import Change, Values, sections


def fixed(**options: Any) -> Change:
    """Return a change to fixed values."""

    def change(values: Values, shape: Shape) -> None:
        values.update(options)

    return change


def layers(*kinds: str, **options: Any) -> Change:
    """Return a change to layers of these kinds, and to fixed values."""

    def change(values: Values, shape: Shape) -> None:
        values.update(layer_types=list(kinds), num_hidden_layers=len(kinds), **options)

    return change


def windows(**options: Any) -> Change:
    """Return a change to a layer with a window after one without."""

    def change(values: Values, shape: Shape) -> None:
        values.update(sliding_window=shape.window, **options)
        layers("full_attention", "sliding_attention")(values, shape)

    return change


def both(*changes: Change) -> Change:
    def change(values: Values, shape: Shape) -> None:
        for each in changes:
            each(values, shape)

    return change


def ropes(*kinds: str, has_sections: bool = False) -> Change:
    """Return a change to a rotation for each kind of layer."""

    def change(values: Values, shape: Shape) -> None:
        known: Values = {"rope_type": "default", "rope_theta": 10000.0}
        if has_sections:
            known["mrope_section"] = sections(values["head_dim"] // 2)
        values["rope_parameters"] = {kind: dict(known) for kind in kinds}

    return change


def mrope(values: Values, shape: Shape) -> None:
    """Split the rotary pairs of a head among times, rows and columns."""
    known = dict(values.get("rope_parameters") or {"rope_type": "default", "rope_theta": 10000.0})
    known["mrope_section"] = sections(_rotary_pairs(values, known))
    values["rope_parameters"] = known


def rope(rope_type: str, **options: Any) -> Change:
    """Return a change to a rotation that is scaled for texts of more than 64 tokens."""

    def change(values: Values, shape: Shape) -> None:
        known = dict(values.get("rope_parameters") or {"rope_theta": 10000.0})
        known.update(options, rope_type=rope_type)
        if rope_type != "linear":
            known["original_max_position_embeddings"] = 64
        if rope_type == "longrope":
            values["original_max_position_embeddings"] = 64
            pairs = _rotary_pairs(values, known)
            known["short_factor"] = [1.0 + 0.02 * number for number in range(pairs)]
            known["long_factor"] = [2.0 + 0.3 * number for number in range(pairs)]
        values["rope_parameters"] = known

    return change


def _rotary_pairs(values: Values, known: Values) -> int:
    dim = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    return int(dim * known.get("partial_rotary_factor", 1.0)) // 2
