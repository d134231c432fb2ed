"""Compute the probabilities of labels of one or more tokens from those of single tokens.

The labels' tokens make a tree. At each inner node the model is asked once how likely each next
token is; a label's probability is the product of those on its way.
"""

import math
from collections.abc import Mapping, Sequence

Path = tuple[int, ...]


class LabelTree:
    """The tree of some labels' tokens."""

    def __init__(self, labels: Sequence[Path]) -> None:
        """Make the tree. Raises ValueError if a label is empty, or the beginning of another."""
        self._labels = tuple(labels)
        self._children: dict[Path, dict[int, None]] = {}
        for label in self._labels:
            for length in range(len(label)):
                self._children.setdefault(label[:length], {})[label[length]] = None
        is_end = [not label or label in self._children for label in self._labels]
        if any(is_end) or len(set(self._labels)) < len(self._labels):
            raise ValueError("labels must be told apart by their tokens")

    @property
    def nodes(self) -> dict[Path, Path]:
        """The inner nodes, the root first, and the tokens that may follow each."""
        return {path: tuple(children) for path, children in self._children.items()}

    def probabilities(self, logprobs: Mapping[Path, Mapping[int, float]]) -> list[float]:
        """Return the probability of each label among all texts.

        logprobs: of the next tokens at each node.
        """
        return [
            math.exp(sum(logprobs[label[:length]][label[length]] for length in range(len(label))))
            for label in self._labels
        ]


def normalized(probabilities: Sequence[float]) -> list[float]:
    """Return probabilities that add up to 1; equal ones if all are too small to be told apart."""
    total = sum(probabilities)
    if total <= 0:
        return [1 / len(probabilities)] * len(probabilities)
    return [each / total for each in probabilities]
