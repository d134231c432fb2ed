"""The positions of a text's tokens."""

from collections.abc import Callable, Sequence

Positions = Callable[[Sequence[int]], Sequence[int]]


def positions_of(text: Sequence[int], padding: int | None) -> Sequence[int]:
    """Return the positions of a text's tokens: from 0, or as RoBERTa counts them, where a padding
    token in the text is not counted.

    padding: the id of that token, after which positions are counted; None: from 0.
    """
    if padding is None:
        return range(len(text))
    places, place = [], padding
    for token in text:
        place += token != padding
        places.append(padding if token == padding else place)
    return places
