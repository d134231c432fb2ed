"""Seeds for requests without one."""

import random


class Seeds:
    """A sequence of seeds.

    They are unpredictable, or, with a seed from the operator, the same after each start.
    """

    def __init__(self, seed: int | None) -> None:
        self._random = random.SystemRandom() if seed is None else random.Random(seed)

    def next(self) -> int:
        """Return the next seed, of 63 bits."""
        return self._random.getrandbits(63)
