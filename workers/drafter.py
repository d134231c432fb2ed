"""Proposes drafts for sequences, within what is left of each."""

from dataclasses import dataclass

from protocol.config import SpeculativeConfig
from workers.drafting import Drafting
from workers.sequence import Chunk, Sequence


@dataclass(slots=True)
class DraftCounters:
    """Cumulative: drafts run, the tokens in them, and how many of these proved right."""

    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


class Drafter:
    """max_len: tokens of a sequence, at most."""

    def __init__(self, config: SpeculativeConfig, max_len: int) -> None:
        self.counters = DraftCounters()
        self._config = config
        self._max_len = max_len

    def propose(self, sequence: Sequence, room: int) -> tuple[int, ...]:
        """Up to `room` tokens that may follow a sequence that wants only its next token.

        A step adds one token more than those of its draft that are right, so that many less are
        drafted than the sequence may still get.
        """
        if sequence.drafting is None:
            sequence.drafting = Drafting(self._config)
        left = min(
            sequence.request.sampling.max_tokens - sequence.num_outputs,
            self._max_len - len(sequence.token_ids),
        )
        return tuple(sequence.drafting.propose(sequence.token_ids, min(room, left - 1)))

    def note(self, chunk: Chunk, accepted: int) -> None:
        """A draft has been run, and the tokens that proved right are appended."""
        self.counters.drafts += 1
        self.counters.draft_tokens += len(chunk.drafts)
        self.counters.accepted_tokens += accepted
        if chunk.sequence.drafting is not None:
            chunk.sequence.drafting.note(len(chunk.drafts), accepted, len(chunk.sequence.token_ids))
