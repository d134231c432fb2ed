"""Track where one output stands in its grammar."""

from collections.abc import Sequence

from headrace.protocol.common.grammar_compiler import matcher_error
from headrace.protocol.common.reasoning_text import ReasoningMarks, ReasoningScanner
from headrace.workers.sequence.compiled_grammar import CompiledGrammar
from headrace.workers.sequence.mask import Mask
from headrace.workers.sequence.token_texts import TokenTexts


class GrammarState:
    """The state of one output's grammar, fed with the output's tokens.

    before: the output up to where the grammar applies; None: it applies at once.
    is_active: whether the next token must match the grammar.
    error: why the output cannot continue; fit to be shown to a client.
    has_ended: whether nothing may follow, though that was found only when computing the next mask.
    mask: what may come next in the step that is being run; the masks after it are those after its
        drafts. None: anything may come.
    """

    __slots__ = ("_before", "_compiled", "error", "has_ended", "is_active", "mask", "matcher")

    def __init__(self, compiled: CompiledGrammar, before: "FreeText | None" = None) -> None:
        self.matcher = compiled.new_matcher()
        self.is_active = before is None
        self.error: str | None = None
        self.has_ended = False
        self.mask: Mask | None = None
        self._compiled = compiled
        self._before = before

    @property
    def straddling(self) -> tuple[int, ...]:
        """The tokens that may not come next, for the grammar would apply within them."""
        return () if self._before is None else self._before.straddling

    @property
    def is_complete(self) -> bool:
        """Whether no token may follow the output."""
        if self.has_ended:
            return True
        return self.is_active and self.error is None and self.matcher.is_stopped()

    def append(self, token_id: int) -> None:
        """Advance by one token of the output."""
        if self._before is not None:
            if self._before.ends_with(token_id):
                self._before, self.is_active = None, True
            return
        self._compiled.tokens += 1
        if self.error is None and not self.matcher.consume_token(token_id):
            self.error = f"the grammar cannot be followed: {matcher_error(self.matcher)}"

    def count_allowed(self, drafts: Sequence[int]) -> int:
        """Return how many of the drafts, from the first on, may follow the output.

        A draft that could be a part of the text after which the grammar applies is left out: what
        follows it is checked only once it is in the output.
        """
        if self._before is not None:
            return self._before.count_free(drafts)
        return 0 if self.error is not None else self.matcher.validate_tokens(list(drafts))

    def mask_after(self, num_drafts: int) -> Mask | None:
        """Return what may follow the output and so many drafts in the step that is being run."""
        if self.mask is None:
            return None
        return Mask(self.mask.rows, self.mask.row + num_drafts)


class FreeText:
    """The output before a grammar applies.

    after: texts, with a character for each byte; the grammar applies after any of them, and after
        the white space that the token with its end may have.
    """

    __slots__ = ("_after", "_scanner", "_texts")

    def __init__(self, after: Sequence[str], texts: TokenTexts) -> None:
        self._after = tuple(after)
        self._texts = texts
        self._scanner = ReasoningScanner(ReasoningMarks((), self._after), is_open=True)

    @property
    def straddling(self) -> tuple[int, ...]:
        """The tokens that would complete one of the texts and go on after it."""
        return self._texts.straddling(self._after, self._scanner.held)

    def ends_with(self, token_id: int) -> bool:
        """Advance by one token; return whether it completes one of the texts."""
        self._scanner.feed(self._texts.text(token_id))
        return self._scanner.is_over

    def count_free(self, drafts: Sequence[int]) -> int:
        """Return how many drafts come before any token that may be a part of one of the texts."""
        if self.straddling:
            return 0
        scanner = self._scanner.copy()
        for count, token_id in enumerate(drafts):
            scanner.feed(self._texts.text(token_id))
            if scanner.is_over or scanner.held:
                return count
        return len(drafts)
