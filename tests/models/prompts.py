"""Prompts of a sweep: lengths below and above a model's windows, and beginnings that repeat."""

import random
from dataclasses import dataclass

from tests.models.shape import Shape
from tests.models.shrink import RESERVED

SHORTEST, LONGEST = 5, 300
COUNT = 8  # of the first round, unless fewer are asked for
NEW = 14  # tokens of an answer, at most


@dataclass(frozen=True)
class Prompts:
    """Prompts of two rounds: the second's begin as the first's do.

    first: all of different lengths, the shortest and the longest among them.
    again: some of the first ones, longer or cut, so that they find cached prefixes.
    new: tokens of each answer.
    """

    first: list[list[int]]
    again: list[list[int]]
    new: int


def draw_prompts(seed: int, shape: Shape, count: int = COUNT, new: int = NEW) -> Prompts:
    """Return the prompts of a seed, of SHORTEST to LONGEST tokens; `count` in the first round."""
    rng = random.Random(f"prompts {seed}")
    usable = shape.vocab - RESERVED

    def tokens(count: int) -> list[int]:
        return [rng.randrange(3, usable) for _ in range(count)]

    between = sorted({int(SHORTEST * (LONGEST / SHORTEST) ** rng.random()) for _ in range(40)})
    lengths = [SHORTEST, *rng.sample(between, count - 2), LONGEST]
    rng.shuffle(lengths)
    first = [tokens(length) for length in lengths]
    longest, middle = max(first, key=len), sorted(first, key=len)[count // 2]
    cut = longest[: rng.randrange(100, 250)]
    again = [longest, [*middle, *tokens(rng.randrange(1, 40))], [*cut, *tokens(7)], list(middle)]
    return Prompts(first, again, new)
