"""Where one text stands in its grammar."""

from collections import deque
from collections.abc import Sequence

from headrace.protocol.common.grammar_compiler import reason_of
from headrace.workers.sequence.compiled_grammar import CompiledGrammar
from headrace.workers.sequence.mask import Mask


class GrammarState:
    """Fed with the tokens of a text, and asked what may follow them.

    after: the grammar begins to hold after these tokens; at once if there are none.
    holds: whether the next token has to keep to it.
    error: why the text cannot go on; fit to be shown to a client.
    has_ended: whether nothing may follow, though that was found only in looking for the next token.
    mask: what may come next in the step that is being run; those after its drafts are the masks
        that follow. None: anything may come.
    """

    __slots__ = ("_after", "_compiled", "_recent", "error", "has_ended", "holds", "mask", "matcher")

    def __init__(self, compiled: CompiledGrammar, after: Sequence[int] = ()) -> None:
        self.matcher = compiled.matcher()
        self.holds = not after
        self.error: str | None = None
        self.has_ended = False
        self.mask: Mask | None = None
        self._compiled = compiled
        self._after = tuple(after)
        self._recent: deque[int] = deque(maxlen=len(after))

    @property
    def is_complete(self) -> bool:
        """Whether no token may follow those that there are."""
        if self.has_ended:
            return True
        return self.holds and self.error is None and self.matcher.is_stopped()

    def append(self, token_id: int) -> None:
        """The text has got one token more."""
        if not self.holds:
            self._recent.append(token_id)
            self.holds = tuple(self._recent) == self._after
            return
        self._compiled.tokens += 1
        if self.error is None and not self.matcher.consume_token(token_id):
            self.error = f"the grammar cannot be followed: {reason_of(self.matcher)}"

    def count_allowed(self, drafts: Sequence[int]) -> int:
        """How many of the drafts, from the first on, may follow the text.

        Those that would bring the grammar to hold are left out: what comes after them is checked
        only when it does.
        """
        if self.holds:
            return 0 if self.error is not None else self.matcher.validate_tokens(list(drafts))
        recent = deque(self._recent, maxlen=len(self._after))
        for count, token_id in enumerate(drafts):
            recent.append(token_id)
            if tuple(recent) == self._after:
                return count
        return len(drafts)

    def mask_after(self, num_drafts: int) -> Mask | None:
        """What may follow the text and so many of its drafts in the step that is being run."""
        if self.mask is None:
            return None
        return Mask(self.mask.rows, self.mask.row + num_drafts)
