"""Track where one output stands in its grammar."""

from collections import deque
from collections.abc import Sequence

from headrace.protocol.common.grammar_compiler import matcher_error
from headrace.workers.sequence.compiled_grammar import CompiledGrammar
from headrace.workers.sequence.mask import Mask


class GrammarState:
    """The state of one output's grammar, fed with the output's tokens.

    after: the grammar applies after these tokens; at once if there are none.
    is_active: whether the next token must match the grammar.
    error: why the output cannot continue; fit to be shown to a client.
    has_ended: whether nothing may follow, though that was found only when computing the next mask.
    mask: what may come next in the step that is being run; the masks after it are those after its
        drafts. None: anything may come.
    """

    __slots__ = (
        "_after",
        "_compiled",
        "_recent",
        "error",
        "has_ended",
        "is_active",
        "mask",
        "matcher",
    )

    def __init__(self, compiled: CompiledGrammar, after: Sequence[int] = ()) -> None:
        self.matcher = compiled.new_matcher()
        self.is_active = not after
        self.error: str | None = None
        self.has_ended = False
        self.mask: Mask | None = None
        self._compiled = compiled
        self._after = tuple(after)
        self._recent: deque[int] = deque(maxlen=len(after))

    @property
    def is_complete(self) -> bool:
        """Whether no token may follow the output."""
        if self.has_ended:
            return True
        return self.is_active and self.error is None and self.matcher.is_stopped()

    def append(self, token_id: int) -> None:
        """Advance by one token of the output."""
        if not self.is_active:
            self._recent.append(token_id)
            self.is_active = tuple(self._recent) == self._after
            return
        self._compiled.tokens += 1
        if self.error is None and not self.matcher.consume_token(token_id):
            self.error = f"the grammar cannot be followed: {matcher_error(self.matcher)}"

    def count_allowed(self, drafts: Sequence[int]) -> int:
        """Return how many of the drafts, from the first on, may follow the output.

        A draft that would make the grammar active is left out: what follows it is checked only
        once it is active.
        """
        if self.is_active:
            return 0 if self.error is not None else self.matcher.validate_tokens(list(drafts))
        recent = deque(self._recent, maxlen=len(self._after))
        for count, token_id in enumerate(drafts):
            recent.append(token_id)
            if tuple(recent) == self._after:
                return count
        return len(drafts)

    def mask_after(self, num_drafts: int) -> Mask | None:
        """Return what may follow the output and so many drafts in the step that is being run."""
        if self.mask is None:
            return None
        return Mask(self.mask.rows, self.mask.row + num_drafts)
