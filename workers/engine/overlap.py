"""One step kept in flight: the next one is scheduled and launched while the device runs it.

The next step is scheduled as if the results of the one in flight were there already: its chunks
have been run, and each of its sequences has one token more, which only the device knows yet. Three
kinds of sequences cannot go on like that and are left out of one step, until their results are in:
those that end with the token in flight whatever it is, those whose penalties, bad words, grammar or
thinking budget need to know it, and those that were aborted. A sequence that turns out to have
ended (by a stop token) costs one wasted row, whose result is dropped. Where the free blocks might
not be enough, nothing is assumed: the results are waited for, so that nobody gives blocks up (is
preempted) for a sequence that has ended.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from headrace.protocol.sampling import SamplingParams
from headrace.workers.engine.block_pool import BlockPool
from headrace.workers.engine.runner import UNKNOWN_TOKEN, Launched, Runner
from headrace.workers.engine.scheduler import Scheduler
from headrace.workers.sequence.sequence import Chunk, ChunkResult, Sequence
from headrace.workers.sequence.thinking import needs_next_token


@dataclass(frozen=True, slots=True)
class _Flight:
    """A launched step and the blocks that it writes, held until it is over."""

    chunks: list[Chunk]
    launched: Launched
    blocks: list[int]


class Overlap:
    """Steps a runner that overlaps; at most one step is in flight between two calls of `turn`.

    max_len: tokens of one sequence at most, prompt and output together.
    before_launch: told of each step's chunks.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        pool: BlockPool,
        max_len: int,
        before_launch: Callable[[list[Chunk]], None] = lambda chunks: None,
    ) -> None:
        self._before_launch = before_launch
        self._runner = runner
        self._scheduler = scheduler
        self._pool = pool
        self._max_len = max_len
        self._flight: _Flight | None = None

    def replace_runner(self, runner: Runner) -> None:
        """Only while no step is in flight."""
        assert self._flight is None
        self._runner = runner

    @property
    def busy(self) -> bool:
        """Whether a step is in flight."""
        return self._flight is not None

    def turn(
        self, sequences: Mapping[str, Sequence], may_launch: bool = True
    ) -> tuple[list[Chunk], list[ChunkResult]]:
        """Launch the next step, and return the chunks and results of the one before it.

        sequences: those that are still wanted, by request id; chunks of others are left out. If
        the next step has to wait for the results of this one, it is launched in the next turn.
        Anything that the runner raises comes through. may_launch: else only the results are taken.
        """
        before, self._flight = self._flight, None
        wanted = [] if before is None else [c for c in before.chunks if _is_in(c, sequences)]
        with self._assumed(wanted):
            if may_launch and (before is None or self._blocks_suffice()):
                self._flight = self._launch()
        if before is None:
            return [], []
        results = before.launched.results()
        self._pool.release(before.blocks)
        pairs = [
            (chunk, result)
            for chunk, result in zip(before.chunks, results, strict=True)
            if _is_in(chunk, sequences)
        ]
        return [chunk for chunk, _ in pairs], [result for _, result in pairs]

    def _launch(self) -> _Flight | None:
        chunks = self._scheduler.schedule()
        if not chunks:
            return None
        self._before_launch(chunks)
        launched = self._runner.launch(chunks)
        blocks = _written_blocks(chunks, self._pool.block_size)
        self._pool.hold(blocks)
        return _Flight(chunks, launched, blocks)

    @contextmanager
    def _assumed(self, chunks: Iterable[Chunk]) -> Iterator[None]:
        """Within, the chunks have been run and their sequences have their next tokens.

        That a chunk has been run remains so: its results will come, or the engine will fail.
        """
        longer = []
        for chunk in chunks:
            sequence = chunk.sequence
            sequence.num_computed = chunk.end
            if chunk.samples and self._goes_on(sequence):
                sequence.token_ids.append(UNKNOWN_TOKEN)
                longer.append(sequence)
        try:
            yield
        finally:
            for sequence in longer:
                sequence.token_ids.pop()

    def _goes_on(self, sequence: Sequence) -> bool:
        """Whether the sequence can be run on before it is known which token comes next."""
        sampling = sequence.request.sampling
        is_last = sequence.num_outputs + 1 >= sampling.max_tokens
        is_full = len(sequence.token_ids) + 1 >= self._max_len
        needs_it = (
            sequence.grammar is not None
            or _needs_its_tokens(sampling)
            or needs_next_token(sequence)
        )
        return not (is_last or is_full or needs_it)

    def _blocks_suffice(self) -> bool:
        """Whether all that runs can be run on without anybody giving blocks up."""
        pool = self._pool
        if self._scheduler.num_running <= pool.free_count:  # one token each is one block at most
            return True
        missing = sum(
            max(0, pool.blocks_for(len(sequence.token_ids)) - len(sequence.blocks))
            for sequence in self._scheduler.running
        )
        return missing <= pool.free_count


def _needs_its_tokens(sampling: SamplingParams) -> bool:
    """Whether the choice of a token depends on which ones came before, other than by the model."""
    return (
        sampling.repetition_penalty != 1
        or sampling.presence_penalty != 0
        or sampling.frequency_penalty != 0
        or any(len(word) > 1 for word in sampling.bad_words)
    )


def _is_in(chunk: Chunk, sequences: Mapping[str, Sequence]) -> bool:
    """Whether the chunk's very sequence is there, and not a later one of the same id."""
    return sequences.get(chunk.sequence.request.request_id) is chunk.sequence


def _written_blocks(chunks: Iterable[Chunk], block_size: int) -> list[int]:
    return [
        block
        for chunk in chunks
        for block in chunk.sequence.blocks[chunk.start // block_size : -(-chunk.end // block_size)]
    ]
