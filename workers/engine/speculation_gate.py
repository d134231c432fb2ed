"""Decide whether drafts pay on this machine with the current number of decodes.

A step with drafts runs more rows and gives more tokens. For one sequence the rows cost next to
nothing on most machines; for many they cost as much as they give. So both kinds of step are
measured, for each power of two of decodes, and the kind with less time per token is run; now and
then, the other.
"""

from collections import deque

_SAMPLES = 8
_LEAST_SAMPLES = 3
_PLAIN_EVERY = 32  # while drafts pay, one step of so many is without
_DRAFTS_EVERY, _DRAFTS_TRIED = 64, 3  # while they do not, a few of so many are with


class SpeculationGate:
    """Measures steps of decodes alone, and decides whether the next one gets drafts."""

    def __init__(self) -> None:
        self._cases: dict[int, _Case] = {}

    def should_draft(self, decodes: int) -> bool:
        """Return whether the next step, which runs so many decodes, gets drafts."""
        case = self._case(decodes)
        case.steps += 1
        if case.plain.count < _LEAST_SAMPLES:
            return False
        if case.drafted.count < _LEAST_SAMPLES:
            return True
        if case.drafted.per_token_s <= case.plain.per_token_s:
            return case.steps % _PLAIN_EVERY != 0
        return case.steps % _DRAFTS_EVERY < _DRAFTS_TRIED

    def observe(self, decodes: int, tokens: int, drafted: bool, seconds: float) -> None:
        """Record that a step of so many decodes, some with drafts or none, gave so many tokens."""
        case = self._case(decodes)
        (case.drafted if drafted else case.plain).add(tokens, seconds)

    def _case(self, decodes: int) -> "_Case":
        return self._cases.setdefault(decodes.bit_length(), _Case())


class _Speed:
    """The median seconds of the last steps over their mean tokens.

    So a single slow step of a busy machine counts no more than others, and all tokens count.
    """

    __slots__ = ("_samples", "count", "per_token_s")

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self.per_token_s = 0.0
        self.count = 0

    def add(self, tokens: int, seconds: float) -> None:
        self._samples.append((seconds, tokens))
        self.count = len(self._samples)
        median_s = sorted(self._samples)[self.count // 2][0]
        self.per_token_s = median_s * self.count / sum(tokens for _, tokens in self._samples)


class _Case:
    """The steps of about one number of decodes, with drafts and without."""

    __slots__ = ("drafted", "plain", "steps")

    def __init__(self) -> None:
        self.plain = _Speed()
        self.drafted = _Speed()
        self.steps = 0
