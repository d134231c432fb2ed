"""Proposes drafts for sequences, within what is left of each."""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.workers.engine.speculation_gate import SpeculationGate
from headrace.workers.sequence.prompt_lookup import PromptLookup
from headrace.workers.sequence.sequence import Chunk, ChunkResult, Sequence

if TYPE_CHECKING:  # pydantic is not needed to step
    from headrace.protocol.config import SpeculativeConfig


@dataclass(slots=True)
class DraftCounters:
    """Cumulative: drafts run, the tokens in them, and how many of these proved right."""

    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


class Drafter:
    """max_len: tokens of a sequence, at most."""

    def __init__(self, config: "SpeculativeConfig", max_len: int) -> None:
        self.counters = DraftCounters()
        self._config = config
        self._max_len = max_len
        self._worth = SpeculationGate()

    def should_draft(self, decodes: int) -> bool:
        """Whether to draft in a step of so many decodes; to be asked once for each such step."""
        return self._worth.wanted(decodes)

    def observe(self, chunks: Items[Chunk], results: Items[ChunkResult], seconds: float) -> None:
        """A step has been run. Only steps of decodes alone tell what drafts cost."""
        if not chunks or not all(chunk.is_decode for chunk in chunks):
            return
        tokens = sum(1 + len(result.accepted_drafts) for result in results)
        drafted = any(chunk.drafts for chunk in chunks)
        self._worth.observe(len(chunks), tokens, drafted, seconds)

    def propose(self, sequence: Sequence, room: int) -> tuple[int, ...]:
        """Up to `room` tokens that may follow a sequence that wants only its next token.

        A step adds one token more than those of its draft that are right, so that many less are
        drafted than the sequence may still get.
        """
        if sequence.prompt_lookup is None:
            sequence.prompt_lookup = PromptLookup(self._config)
        left = min(
            sequence.request.sampling.max_tokens - sequence.num_outputs,
            self._max_len - len(sequence.token_ids),
        )
        drafts = sequence.prompt_lookup.propose(sequence.token_ids, min(room, left - 1))
        if drafts and sequence.grammar is not None:
            drafts = drafts[: sequence.grammar.count_allowed(drafts)]
        return tuple(drafts)

    def note(self, chunk: Chunk, accepted: int) -> None:
        """A draft has been run, and the tokens that proved right are appended."""
        self.counters.drafts += 1
        self.counters.draft_tokens += len(chunk.drafts)
        self.counters.accepted_tokens += accepted
        if chunk.sequence.prompt_lookup is not None:
            chunk.sequence.prompt_lookup.note(
                len(chunk.drafts), accepted, len(chunk.sequence.token_ids)
            )
