"""Count weights that no kernel reads as files have them, for a line to the operator."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(slots=True)
class _Kind:
    """Weights of one kind: how many, their numbers, and the bits that files have for these."""

    count: int = 0
    elements: int = 0
    bits: float = 0


class ExpandedWeights:
    """The weights that were expanded to a float type so far, by kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = defaultdict(_Kind)

    def add(self, kind: str, elements: int, bits: float) -> None:
        """Count a weight. kind: words that follow its name. bits: of a number in the file."""
        found = self._kinds[kind]
        found.count += 1
        found.elements += elements
        found.bits += elements * bits

    def notes(self, dtype: torch.dtype) -> Iterator[str]:
        """Yield a line for each kind."""
        name = str(dtype).removeprefix("torch.")
        for kind, found in self._kinds.items():
            growth = found.elements * dtype.itemsize * 8 / found.bits
            yield (
                f"{found.count} weights {kind} have no kernel and are expanded to {name}, "
                f"{growth:.2g} times as large"
            )
