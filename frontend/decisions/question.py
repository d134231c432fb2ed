"""Questions with labelled options, and the text that asks for one label."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

LETTERS, DIGITS = tuple(string.ascii_uppercase), tuple(string.digits)
YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Option:
    """An answer. description: "" for none."""

    name: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A question. labels: what the model may answer, one for each option."""

    instructions: str
    options: Sequence[Option]
    labels: Sequence[str]

    def text(self) -> str:
        """Return the question with its options, as the model reads it."""
        lines = [f"Question: {self.instructions}"] if self.instructions else []
        lines += [
            _line(label, option) for label, option in zip(self.labels, self.options, strict=True)
        ]
        kind = _KINDS.get(self.labels[0], "letters")
        return "\n".join([*lines, f"Reply with the {kind} of the right answer and nothing else."])


# What labels that begin with these are called.
_KINDS = {"A": "letter", "0": "number", "yes": "word"}


def letters(count: int) -> Sequence[str]:
    """Return labels for so many options: A, B, ..., or all of two letters if these are too few."""
    if count <= len(LETTERS):
        return LETTERS[:count]
    pairs = ["".join(pair) for pair in product(LETTERS, repeat=2)]
    return pairs[:count]


def _line(label: str, option: Option) -> str:
    if option.name == label:  # yes and no name themselves
        return f"{label}: {option.description}" if option.description else label
    described = f" ({option.description})" if option.description else ""
    return f"{label}: {option.name}{described}"
