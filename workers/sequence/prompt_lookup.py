"""Draft one sequence's next tokens by prompt lookup, while drafts are accepted."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace.workers.sequence.ngram_index import NgramIndex

if TYPE_CHECKING:  # pydantic is not needed to step
    from headrace.protocol.config import SpeculativeConfig

_FIRST_ACCEPTANCE = 0.6
_MEMORY = 0.8  # the weight of the acceptance so far against that of the last draft
_POOR = 0.25  # acceptance below which no drafts are made for a while
_AFTER_PAUSE = 0.3  # two wrong drafts more, and the next pause begins
_GOOD = 0.5
_FIRST_PAUSE, _LONGEST_PAUSE = 16, 512  # tokens


class PromptLookup:
    """The drafts of one sequence.

    acceptance: running share of drafted tokens that were accepted. The lower it is, the shorter
        drafts become; when it is poor, none are made for some tokens, each time for twice as many.
    """

    __slots__ = ("_index", "_most", "_pause", "_resume_at", "acceptance")

    def __init__(self, config: "SpeculativeConfig") -> None:
        self.acceptance = _FIRST_ACCEPTANCE
        self._index = NgramIndex(config.prompt_lookup_min, config.prompt_lookup_max)
        self._most = config.num_speculative_tokens
        self._pause = _FIRST_PAUSE
        self._resume_at = 0

    def propose(self, token_ids: Sequence[int], limit: int) -> list[int]:
        """Return up to `limit` tokens that may follow the sequence; often none."""
        if limit <= 0 or len(token_ids) < self._resume_at:
            return []
        wanted = max(round(self._most * self.acceptance), 1)
        return self._index.propose(token_ids, min(limit, wanted))

    def record(self, drafted: int, accepted: int, length: int) -> None:
        """Record how many tokens of a draft were accepted. length: of the sequence, with them."""
        self.acceptance = _MEMORY * self.acceptance + (1 - _MEMORY) * accepted / drafted
        if self.acceptance >= _GOOD:
            self._pause = _FIRST_PAUSE
        elif self.acceptance < _POOR:
            self.acceptance = _AFTER_PAUSE
            self._resume_at = length + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
