"""Where requests wait until their grammars are compiled, so that no step waits for one."""

import logging
from concurrent.futures import FIRST_COMPLETED, Future, wait

from headrace.workers.grammars.grammar_manager import GrammarManager
from headrace.workers.sequence.grammar_state import GrammarState
from headrace.workers.sequence.sequence import Failure, Sequence

log = logging.getLogger(__name__)

_WAIT_S = 0.02  # then others that may have come get their turn


class GrammarGate:
    """Sequences with a grammar go in, and come out with its state."""

    def __init__(self, grammars: GrammarManager) -> None:
        self.grammars = grammars
        self._waiting: dict[Sequence, Future[GrammarState]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, sequence: Sequence) -> None:
        self._waiting[sequence] = self.grammars.begin(sequence.request)

    def discard(self, sequence: Sequence) -> bool:
        """Forget a sequence; false if it is not here."""
        future = self._waiting.pop(sequence, None)
        if future is not None:
            future.cancel()
        return future is not None

    def take(self, is_idle: bool) -> list[tuple[Sequence, Failure | None]]:
        """The sequences whose grammars are there, in the order in which they came, or why one is
        not. is_idle: whether there is nothing better to do than to wait for a moment."""
        if is_idle and self._waiting:
            wait(self._waiting.values(), _WAIT_S, FIRST_COMPLETED)
        done = [sequence for sequence, future in self._waiting.items() if future.done()]
        return [(sequence, self._admit(sequence)) for sequence in done]

    def _admit(self, sequence: Sequence) -> Failure | None:
        future = self._waiting.pop(sequence)
        error = future.exception()  # a compiler's panic, too, ends no more than its own request
        if isinstance(error, ValueError):
            return Failure("rejected", f"the grammar cannot be used: {error}")
        if error is not None:
            log.error("a grammar could not be compiled", exc_info=error)
            return Failure("error", "the grammar cannot be used")
        sequence.grammar = future.result()
        reason = sequence.grammar.error
        return None if reason is None else Failure("rejected", reason)
