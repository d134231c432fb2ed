"""The sizes of a tiny model, fixed or drawn with a seed."""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes that every architecture's configuration is shrunk to, as far as it has them.

    head_dim: of each head, where the configuration gives it; else it is hidden // heads.
    layers: of models whose layers are all of one kind; others have one or more of each kind.
    window: of sliding windows and chunks, shorter than most prompts; scales and ropes that change
        with the position change after a multiple of it.
    """

    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    inner: int = 96
    layers: int = 2
    vocab: int = 300
    window: int = 24
    experts: int = 4
    top_experts: int = 2
    length: int = 512
    ties: bool = False


def draw_shape(seed: int) -> Shape:
    """Return the shape of a seed: 0 has the usual one, others draw odd sizes, too."""
    if seed == 0:
        return Shape()
    rng = random.Random(f"shape {seed}")
    heads = rng.choice((2, 4, 6, 8))
    return Shape(
        hidden=heads * rng.choice((8, 12, 20)),
        heads=heads,
        kv_heads=rng.choice([each for each in (1, 2, 3, 4, 8) if heads % each == 0]),
        head_dim=rng.choice((8, 16, 20, 24, 64)),
        inner=rng.choice((40, 72, 96, 130)),
        layers=rng.choice((1, 2, 3)),
        vocab=rng.choice((290, 300, 333)),
        window=rng.choice((5, 16, 24, 33, 70)),
        experts=rng.choice((4, 8)),
        top_experts=rng.choice((1, 2, 3)),
        ties=rng.random() < 0.3,
    )
