"""Seeds for requests that bring none."""

import random


class Seeds:
    """Unpredictable ones, or, from a seed of the operator's, the same sequence after each start."""

    def __init__(self, seed: int | None) -> None:
        self._random = random.SystemRandom() if seed is None else random.Random(seed)

    def next(self) -> int:
        """The next seed, of 63 bits."""
        return self._random.getrandbits(63)
