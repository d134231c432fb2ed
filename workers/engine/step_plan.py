"""Collect the chunks of a step within its limits."""

from dataclasses import replace

from headrace.workers.engine.state_cache import StateCache
from headrace.workers.sequence.sequence import Chunk, Owner, Sequence


class StepPlan:
    """A step that is being scheduled: its chunks, and for how many more tokens it has room.

    prompt_logprobs: of how many prompt tokens it may compute log probabilities.
    no_prompts: owners whose prompts must wait.
    states: says where chunks end for a snapshot; None: the model has no states.
    """

    def __init__(
        self,
        room: int,
        prompt_logprobs: int,
        no_prompts: frozenset[Owner],
        states: StateCache | None = None,
    ) -> None:
        self.room = room
        self.chunks: dict[Sequence, Chunk] = {}
        self._no_prompts = no_prompts
        self._states = states
        self._prompt_logprob_room = prompt_logprobs

    @property
    def has_prompts(self) -> bool:
        """Whether a chunk is more than a decode."""
        return not all(chunk.is_decode for chunk in self.chunks.values())

    def allows_prompt(self, sequence: Sequence) -> bool:
        """Return whether the step may run tokens of a sequence's prompt."""
        if sequence.owner in self._no_prompts:
            return False
        return not sequence.lacks_prompt_logprobs or self._prompt_logprob_room > 0

    def count_for(self, sequence: Sequence) -> int:
        """Return how many of the sequence's next tokens the step has room for."""
        count = min(sequence.num_pending, self.room)
        if sequence.lacks_prompt_logprobs:
            count = min(count, self._prompt_logprob_room)
        return count if self._states is None else self._states.shorten(sequence, count)

    def add(self, sequence: Sequence, count: int) -> None:
        """Run so many of the sequence's next tokens."""
        self.chunks[sequence] = _chunk(sequence, count)
        self.room -= count
        if sequence.lacks_prompt_logprobs:
            self._prompt_logprob_room -= count

    def add_drafts(self, sequence: Sequence, drafts: tuple[int, ...]) -> None:
        """Append drafts to the chunk of a decode."""
        chunk = self.chunks[sequence]
        count = chunk.count + len(drafts)
        self.chunks[sequence] = replace(chunk, count=count, drafts=drafts)
        self.room -= len(drafts)

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence's chunk, if it has one."""
        chunk = self.chunks.pop(sequence, None)
        if chunk is not None:
            self.room += chunk.count


def _chunk(sequence: Sequence, count: int) -> Chunk:
    start, end = sequence.num_computed, sequence.num_computed + count
    positions = range(0)
    if sequence.lacks_prompt_logprobs:
        known = len(sequence.prompt_logprobs)
        positions = range(max(start, known), min(end, sequence.num_prompt - 1))
    state = None if sequence.state is None else sequence.state.plain_use
    return Chunk(sequence, start, count, end == len(sequence.token_ids), positions, state=state)
