"""A fake device with a memory of its own: it runs each step as late as it may."""

from collections import abc
from dataclasses import dataclass, replace
from typing import Any

from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.engine.runner import PENDING_TOKEN
from headrace.workers.sequence.sequence import Chunk, ChunkResult, Sequence
from headrace.workers.sequence.thinking import forced_token


@dataclass
class Job:
    """A launched step: what was known of its chunks at the launch."""

    runner: "LateRunner"
    chunks: list[Chunk]
    tokens: list[list[int]]
    blocks: list[list[int]]
    forced: list[int | None]
    found: list[ChunkResult] | None = None

    def results(self) -> list[ChunkResult]:
        self.runner.catch_up(self)
        assert self.found is not None
        return self.found

    def written(self) -> set[int]:
        size = self.runner.block_size
        return {
            blocks[position // size]
            for chunk, blocks in zip(self.chunks, self.blocks, strict=True)
            for position in range(chunk.start, chunk.end)
        }


class LateRunner(FakeRunner):
    """Gives what FakeRunner gives, but reads the texts out of its cache, block by block.

    A step runs when its results are asked for, not before, and steps run in order.
    """

    overlaps = True

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.memory: list[list[int | None]] = [
            [None] * self.block_size for _ in range(self.num_blocks)
        ]
        self.jobs: list[Job] = []
        self.chosen: dict[Sequence, int | None] = {}
        self.num_overlapped = 0
        self.num_unknown = 0

    def launch(self, chunks: abc.Sequence[Chunk]) -> Job:
        assert chunks, "an empty step was launched"
        assert len(self.jobs) < 2, "two steps are in flight already"
        self.num_overlapped += bool(self.jobs)
        tokens = [list(c.sequence.token_ids[c.start : c.end]) for c in chunks]
        for chunk in chunks:
            sampling = chunk.sequence.request.sampling
            if sampling.presence_penalty or any(len(word) > 1 for word in sampling.bad_words):
                assert PENDING_TOKEN not in chunk.sequence.token_ids
        self.num_unknown += sum(some.count(PENDING_TOKEN) for some in tokens)
        blocks = [list(c.sequence.blocks) for c in chunks]
        forced = [forced_token(c.sequence) if c.samples else None for c in chunks]
        job = Job(self, list(chunks), tokens, blocks, forced)
        self.jobs.append(job)
        return job

    def run(self, chunks: abc.Sequence[Chunk]) -> list[ChunkResult]:
        return self.launch(chunks).results()

    def catch_up(self, job: Job) -> None:
        while self.jobs:
            first = self.jobs.pop(0)
            self._execute(first)
            if first is job:
                return

    def _execute(self, job: Job) -> None:
        for chunk, tokens, blocks in zip(job.chunks, job.tokens, job.blocks, strict=True):
            for position, token in enumerate(tokens, chunk.start):
                value = self.chosen[chunk.sequence] if token == PENDING_TOKEN else token
                self.memory[blocks[position // self.block_size]][position % self.block_size] = value
        job.found = []
        chosen: dict[Sequence, int | None] = {}
        for chunk, blocks, forced in zip(job.chunks, job.blocks, job.forced, strict=True):
            known = self._read(chunk, blocks)
            if chunk.samples:
                assert forced == forced_token(known), "what must follow was not known at the launch"
            result = self._run_chunk(replace(chunk, sequence=known))
            job.found.append(result)
            if chunk.samples:
                chosen[chunk.sequence] = result.token_id
        self.chosen = chosen

    def cached_text(self, length: int, blocks: list[int]) -> list[int]:
        """The first tokens of a sequence with these blocks."""
        size = self.block_size
        cached = [self.memory[blocks[n // size]][n % size] for n in range(length)]
        text = [token for token in cached if token is not None]
        assert len(text) == len(cached), "a position of the cache is read that was never written"
        return text

    def _read(self, chunk: Chunk, blocks: list[int]) -> Sequence:
        """The sequence as it stands in the cache up to the chunk's end, and the prompt's rest."""
        text = self.cached_text(chunk.end, blocks)
        request = chunk.sequence.request
        text += request.prompt_token_ids[chunk.end :]
        grammar = chunk.sequence.grammar
        sequence = chunk.sequence
        return Sequence(
            request, 0, 0.0, text, sequence.num_prompt, grammar=grammar, texts=sequence.texts
        )


def overlapping_engine(
    make_runner: abc.Callable[..., LateRunner] = LateRunner, **options: Any
) -> Engine:
    """An engine on a late runner, whose pool gives out no block that a step in flight writes."""
    sizes = {"vocab_size": 50, "max_model_len": 48, "num_blocks": 64, "block_size": 4}
    sizes |= {name: options.pop(name) for name in list(options) if name in sizes}
    runner = make_runner(**sizes)
    engine = assemble_engine(runner, **{"max_num_seqs": 8, "max_num_batched_tokens": 16, **options})
    allocate = engine._pool.allocate

    def checked(count: int) -> list[int]:
        blocks = allocate(count)
        for job in runner.jobs:
            assert not job.written().intersection(blocks), "a block was given out too early"
        return blocks

    engine._pool.allocate = checked  # type: ignore[method-assign]
    return engine
