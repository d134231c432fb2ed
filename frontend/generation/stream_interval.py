"""Tokens of a stream that go into one chunk (the field stream_interval)."""

from headrace.frontend.generation.choice import Choice, Delta


class StreamInterval:
    """Holds deltas of each choice back until they have so many tokens; a choice's first and last
    are never held back."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._held: dict[int, Delta] = {}
        self._begun: set[int] = set()

    def add(self, choice: Choice, delta: Delta) -> Delta | None:
        """What is to be sent now: this delta and what was held back before it; None: nothing."""
        index = choice.index
        held = self._held.pop(index, None)
        joined = delta if held is None else _joined(held, delta)
        begins = index not in self._begun
        if begins or delta.finish_reason is not None or len(joined.token_ids) >= self._tokens:
            self._begun.add(index)
            return joined
        self._held[index] = joined
        return None


def _joined(first: Delta, second: Delta) -> Delta:
    return Delta(
        first.text + second.text,
        first.token_ids + second.token_ids,
        first.logprobs + second.logprobs,
        second.finish_reason,
        second.stop_reason,
        first.admission or second.admission,
    )
