"""Find the tokens that would complete a bad word."""

from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence


class BadWords:
    """The bad words of one request, each of at least one token.

    reach: how many of an output's last tokens decide which token would end one.
    """

    __slots__ = ("_by_last", "_single", "reach")

    def __init__(self, words: Iterable[tuple[int, ...]]) -> None:
        self._single: set[int] = set()
        # By the token before the last one, so that few are compared at each step; as bytes, so that
        # hundreds of long ones with a common beginning cost a sequence little, too.
        self._by_last: dict[int, list[tuple[bytes, int]]] = defaultdict(list)
        self.reach = 0
        for word in words:
            if len(word) == 1:
                self._single.add(word[0])
            else:
                self._by_last[word[-2]].append((_as_bytes(word[:-1]), word[-1]))
                self.reach = max(self.reach, len(word) - 1)

    def banned(self, last: Sequence[int]) -> Collection[int]:
        """Return the tokens that must not follow.

        last: the output's last tokens, at least `reach` of them or all.
        """
        ending = self._by_last.get(last[-1]) if last else None
        if ending is None:
            return self._single
        output = _as_bytes(last)
        return self._single | {end for start, end in ending if output.endswith(start)}


def _as_bytes(token_ids: Sequence[int]) -> bytes:
    return array("q", token_ids).tobytes()
