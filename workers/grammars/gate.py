"""Hold requests back until their grammars are compiled, or their tokens' texts read, so that no
step waits for that."""

import logging
from concurrent.futures import FIRST_COMPLETED, Future, wait

from headrace.workers.grammars.grammar_manager import GrammarManager, Prepared
from headrace.workers.sequence.sequence import Failure, Sequence

log = logging.getLogger("headrace.worker.grammars")

_WAIT_S = 0.02  # then commands that may have come are executed


class GrammarGate:
    """The sequences whose grammars are being compiled.

    grammars: compiles them.
    """

    def __init__(self, grammars: GrammarManager) -> None:
        self.grammars = grammars
        self._waiting: dict[Sequence, Future[Prepared]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Start to prepare what a sequence needs of its model's tokens."""
        self._waiting[sequence] = self.grammars.prepare(sequence.request)

    def discard(self, sequence: Sequence) -> bool:
        """Drop a sequence. Returns False if it is not here."""
        future = self._waiting.pop(sequence, None)
        if future is not None:
            future.cancel()
        return future is not None

    def pop_compiled(self, is_idle: bool) -> list[tuple[Sequence, Failure | None]]:
        """Remove and return the sequences whose compilation is over, in the order of `add`.

        Each has its grammar's state, or comes with the reason why not.

        is_idle: the engine has nothing else to do, so wait a moment if none is compiled yet.
        """
        if is_idle and self._waiting:
            wait(self._waiting.values(), _WAIT_S, FIRST_COMPLETED)
        done = [sequence for sequence, future in self._waiting.items() if future.done()]
        return [(sequence, self._pop(sequence)) for sequence in done]

    def _pop(self, sequence: Sequence) -> Failure | None:
        future = self._waiting.pop(sequence)
        error = future.exception()  # even a compiler's panic ends no more than its own request
        if isinstance(error, ValueError):
            return Failure("rejected", f"the grammar cannot be used: {error}")
        if error is not None:
            log.error("failed to compile a grammar", exc_info=error)
            return Failure("error", "the grammar cannot be used")
        sequence.grammar, sequence.texts = future.result()
        reason = None if sequence.grammar is None else sequence.grammar.error
        return None if reason is None else Failure("rejected", reason)
