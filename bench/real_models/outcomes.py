"""Tell what differs, and whether rounding explains it."""

from collections.abc import Sequence
from dataclasses import dataclass

TIE = 0.01  # a logit gap that rounding in fp32 may cross
SHOWN = 5  # differences of a kind that are printed in full


@dataclass(frozen=True, slots=True)
class Greedy:
    """Greedy tokens after a prompt, and by how much each one's logit beat the second one's."""

    tokens: list[int]
    gaps: list[float]


def show_texts(kind: str, expected: Sequence[Greedy], found: Sequence[Sequence[int]]) -> bool:
    """Print how many greedy texts are the same; return whether the others are ties."""
    same = 0
    ties: list[str] = []
    wrong: list[str] = []
    for number, (want, got) in enumerate(zip(expected, found, strict=True)):
        first = _first_difference(want.tokens, got)
        if first is None:
            same += 1
        else:
            where = f"prompt {number}, token {first}, gap {want.gaps[first]:.4f}"
            (ties if want.gaps[first] < TIE else wrong).append(where)
    print(f"  greedy texts, {kind}: {same} of {len(expected)} the same", ties, wrong, flush=True)
    return not wrong


def _first_difference(want: Sequence[int], got: Sequence[int]) -> int | None:
    """Return the first place where a token differs, or is missing."""
    return next((at for at, token in enumerate(want) if list(got[at : at + 1]) != [token]), None)


def show_tokens(
    peer: str,
    texts: Sequence[str],
    ours: Sequence[Sequence[int]],
    theirs: Sequence[Sequence[int]],
) -> bool:
    """Print which texts have other token ids; return whether none has."""
    unequal = [each for each in zip(texts, ours, theirs, strict=True) if each[1] != each[2]]
    print(
        f"  tokens, {peer}: {len(texts) - len(unequal)} of {len(texts)} texts the same", flush=True
    )
    for text, own, other in unequal[:SHOWN]:
        print(f"    {text[:60]!r}: {list(own[:16])}, there {list(other[:16])}", flush=True)
    return not unequal
