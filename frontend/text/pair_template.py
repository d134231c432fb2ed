"""How a tokenizer joins the tokens of two texts for a model that reads pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokenizers import Tokenizer

_PROBES: Final = ("a", "b")


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The special tokens around two texts.

    before, between, after: their ids. types: of the token types of these, and of the texts, in the
        order before, first, between, second, after.
    """

    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    types: tuple[tuple[int, ...], int, tuple[int, ...], int, tuple[int, ...]] = ((), 0, (), 1, ())

    @property
    def num_special(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def join(self, first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens of a pair."""
        return (*self.before, *first, *self.between, *second, *self.after)

    def join_types(self, first: int, second: int) -> tuple[int, ...]:
        """Return the token types of a pair. first, second: how many tokens its texts have."""
        before, of_first, between, of_second, after = self.types
        return (*before, *(of_first,) * first, *between, *(of_second,) * second, *after)


def pair_template_of(backend: Tokenizer) -> PairTemplate:
    """Find out how a tokenizer joins pairs; if that cannot be told, it joins them as they are."""
    first, second = (backend.encode(text, add_special_tokens=False).ids for text in _PROBES)
    pair = backend.encode(*_PROBES, add_special_tokens=True)
    ids, types = pair.ids, pair.type_ids
    start = _find(ids, first, 0)
    middle = None if start is None else _find(ids, second, start + len(first))
    if start is None or middle is None:
        return PairTemplate()
    end_first, end = start + len(first), middle + len(second)
    return PairTemplate(
        tuple(ids[:start]),
        tuple(ids[end_first:middle]),
        tuple(ids[end:]),
        (
            tuple(types[:start]),
            types[start],
            tuple(types[end_first:middle]),
            types[middle],
            tuple(types[end:]),
        ),
    )


def _find(ids: list[int], part: list[int], start: int) -> int | None:
    """Return where a part of a list begins, from `start` on; None if it is not in it."""
    places = range(start, len(ids) - len(part) + 1)
    return next((at for at in places if part and ids[at : at + len(part)] == part), None)
