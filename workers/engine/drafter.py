"""Propose drafts for sequences, within the tokens that each may still get."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headrace.workers.engine.speculation_gate import SpeculationGate
from headrace.workers.sequence.prompt_lookup import PromptLookup
from headrace.workers.sequence.sequence import Chunk, ChunkResult, Sequence

if TYPE_CHECKING:  # pydantic is not needed to step
    from headrace.protocol.config import SpeculativeConfig


@dataclass(slots=True)
class DraftCounters:
    """Cumulative counts of drafts run, the tokens in them, and how many were accepted.

    accepted_by_position: drafts of which at least the first 1, 2, … tokens were accepted.
    """

    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_position: list[int] = field(default_factory=list)


class Drafter:
    """Drafts for all sequences of an engine, by prompt lookup.

    max_len: the most tokens of one sequence, prompt and output together.
    """

    def __init__(self, config: "SpeculativeConfig", max_len: int) -> None:
        self.counters = DraftCounters()
        self._config = config
        self._max_len = max_len
        self._gate = SpeculationGate()

    def should_draft(self, decodes: int) -> bool:
        """Return whether a step of so many decodes gets drafts. Call once for each such step."""
        return self._gate.should_draft(decodes)

    def observe(self, chunks: Items[Chunk], results: Items[ChunkResult], seconds: float) -> None:
        """Record how long a step took. Only steps of decodes alone tell what drafts cost."""
        if not chunks or not all(chunk.is_decode for chunk in chunks):
            return
        tokens = sum(1 + len(result.accepted_drafts) for result in results)
        drafted = any(chunk.drafts for chunk in chunks)
        self._gate.observe(len(chunks), tokens, drafted, seconds)

    def propose(self, sequence: Sequence, limit: int) -> tuple[int, ...]:
        """Return up to `limit` tokens that may follow a sequence that is about to decode.

        A step adds one token more than it accepts drafts, so the draft is one token shorter than
        what the sequence may still get.
        """
        if sequence.prompt_lookup is None:
            sequence.prompt_lookup = PromptLookup(self._config)
        left = min(
            sequence.request.sampling.max_tokens - sequence.num_outputs,
            self._max_len - len(sequence.token_ids),
        )
        drafts = sequence.prompt_lookup.propose(sequence.token_ids, min(limit, left - 1))
        if drafts and sequence.grammar is not None:
            drafts = drafts[: sequence.grammar.count_allowed(drafts)]
        return tuple(drafts)

    def record(self, chunk: Chunk, accepted: int) -> None:
        """Count a draft that has been run. The accepted tokens must have been appended."""
        self.counters.drafts += 1
        self.counters.draft_tokens += len(chunk.drafts)
        self.counters.accepted_tokens += accepted
        by_position = self.counters.accepted_by_position
        by_position += [0] * (len(chunk.drafts) - len(by_position))
        for position in range(accepted):
            by_position[position] += 1
        sequence = chunk.sequence
        if sequence.prompt_lookup is not None:
            sequence.prompt_lookup.record(len(chunk.drafts), accepted, len(sequence.token_ids))
