"""Run a runner's steps by hand: chunks of any sizes, snapshots, and slots that change."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from headrace.workers.sequence.sequence import Chunk, Sequence
from headrace.workers.sequence.state_use import StateUse
from headrace.workers.torch_runner.model_runner import ModelRunner
from tests.workers.driving import request


@dataclass
class ByHand:
    """Sequences of a runner, each with blocks of its own.

    free: slots for states that nobody holds.
    """

    runner: ModelRunner
    free: list[int]
    slots: dict[Sequence, int] = field(default_factory=dict)
    done: dict[Sequence, int] = field(default_factory=dict)
    num_blocks: int = 0

    def begin(self, prompt: Items[int]) -> Sequence:
        sequence = Sequence.of(request(f"r{len(self.done)}", prompt), len(self.done), 0.0)
        count = -(-self.runner.max_model_len // self.runner.block_size)
        sequence.blocks = list(range(self.num_blocks, self.num_blocks + count))
        self.num_blocks += count
        assert self.num_blocks <= self.runner.num_blocks
        self.slots[sequence] = self.free.pop()
        self.done[sequence] = 0
        return sequence

    def step(
        self,
        counts: dict[Sequence, int],
        restored: dict[Sequence, int] | None = None,
        saved: dict[Sequence, int] | None = None,
    ) -> None:
        """Run the next tokens of sequences; one whose tokens have all run gets its next."""
        chunks = []
        for sequence, count in counts.items():
            start = self.done[sequence]
            use = StateUse(
                self.slots[sequence], (restored or {}).get(sequence), (saved or {}).get(sequence)
            )
            samples = start + count == len(sequence.token_ids)
            chunks.append(Chunk(sequence, start, count, samples, state=use))
        results = self.runner.run(chunks)
        for chunk, result in zip(chunks, results, strict=True):
            self.done[chunk.sequence] = chunk.end
            if chunk.samples:
                assert result.token_id is not None
                chunk.sequence.append(result.token_id)
