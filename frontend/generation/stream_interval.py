"""Join the tokens of a stream into larger chunks (the field stream_interval)."""

from headrace.frontend.generation.choice import Choice, Delta


class StreamInterval:
    """Holds back the deltas of each choice until they have `tokens` tokens.

    The first and last delta of a choice are never held back.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._held: dict[int, Delta] = {}
        self._begun: set[int] = set()

    def add(self, choice: Choice, delta: Delta) -> Delta | None:
        """Return the delta to send now: this one joined to what was held back before it.

        Returns None if nothing is due.
        """
        index = choice.index
        held = self._held.pop(index, None)
        joined = delta if held is None else _join(held, delta)
        is_first = index not in self._begun
        if is_first or delta.finish_reason is not None or len(joined.token_ids) >= self._tokens:
            self._begun.add(index)
            return joined
        self._held[index] = joined
        return None


def _join(first: Delta, second: Delta) -> Delta:
    return Delta(
        first.text + second.text,
        first.token_ids + second.token_ids,
        first.logprobs + second.logprobs,
        second.finish_reason,
        second.stop_reason,
        first.admission or second.admission,
    )
