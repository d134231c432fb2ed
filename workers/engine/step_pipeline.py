"""Launch steps on a runner and collect their results; keep one in flight if the runner overlaps.

With a step in flight, the next one is scheduled as if the results were there already: its chunks
have been run, and each of its sequences has one token more, which only the device knows yet. Three
kinds of sequences cannot continue like that and are left out of one step, until their results are
in: those that end with the pending token whatever it is, those whose penalties, bad words, grammar
or thinking budget need to know it, and those that were aborted. A sequence that turns out to have
ended (by a stop token) costs one wasted row, whose result is dropped. Where the free blocks might
not be enough, nothing is assumed: the results are awaited first, so that no sequence is preempted
for one that has ended.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from headrace.protocol.sampling import SamplingParams
from headrace.workers.engine.block_pool import BlockPool
from headrace.workers.engine.runner import PENDING_TOKEN, LaunchedStep, Runner
from headrace.workers.sequence.sequence import Chunk, ChunkResult, Sequence
from headrace.workers.sequence.thinking import needs_next_token


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """The chunks of a step with one result for each, and the seconds that it took.

    Chunks of sequences that were aborted while the step was in flight are left out.
    """

    chunks: list[Chunk]
    results: list[ChunkResult]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Flight:
    """A launched step and the blocks that it writes, held until it is over."""

    chunks: list[Chunk]
    launched: LaunchedStep
    blocks: list[int]


class StepPipeline:
    """Runs one step after the other, or, if it overlaps, launches one before collecting the last.

    A step is: within `assume_results`, schedule and `launch`; then `collect`.

    runner: runs the steps; replaced by `replace_runner` only.
    max_len: the most tokens of one sequence, prompt and output together.
    overlaps: whether a step is launched before the results of the last one are collected.
    clock: gives seconds, by which steps are measured.
    """

    def __init__(
        self,
        runner: Runner,
        pool: BlockPool,
        *,
        max_len: int,
        overlaps: bool,
        clock: Callable[[], float],
    ) -> None:
        self.runner = runner
        self._pool = pool
        self._max_len = max_len
        self._overlaps = overlaps
        self._clock = clock
        self._started_s = 0.0
        self._in_flight: _Flight | None = None  # its results are collected by the next step
        self._due: _Flight | None = None  # its results are collected by this step

    @property
    def is_busy(self) -> bool:
        """Whether a step is in flight."""
        return self._in_flight is not None

    @property
    def assumes_results(self) -> bool:
        """Whether scheduling now relies on results that have not been collected yet."""
        return self._due is not None

    def replace_runner(self, runner: Runner) -> None:
        """Run the next steps on another runner. No step may be in flight."""
        assert self._in_flight is None
        self.runner = runner

    @contextmanager
    def assume_results(self, sequences: Mapping[str, Sequence]) -> Iterator[None]:
        """Treat the step in flight as over: its sequences have their next tokens, as pending ones.

        That a chunk has been run stays true afterwards: its results will come, or the engine fails.

        sequences: the requests still wanted, by id; nothing is assumed of others.
        """
        self._started_s = self._clock()
        self._due, self._in_flight = self._in_flight, None
        longer = []
        for chunk in () if self._due is None else self._due.chunks:
            sequence = chunk.sequence
            if not _is_in(chunk, sequences):
                continue
            sequence.num_computed = chunk.end
            if chunk.samples and self._can_continue(sequence):
                sequence.token_ids.append(PENDING_TOKEN)
                longer.append(sequence)
        try:
            yield
        finally:
            for sequence in longer:
                sequence.token_ids.pop()

    def launch(self, chunks: list[Chunk]) -> None:
        """Start a step. Raises whatever the runner raises."""
        if self._due is None:
            self._started_s = self._clock()
        launched = self.runner.launch(chunks)
        if not self._overlaps:
            self._due = _Flight(chunks, launched, [])
            return
        blocks = _written_blocks(chunks, self._pool.block_size)
        self._pool.hold(blocks)
        self._in_flight = _Flight(chunks, launched, blocks)

    def collect(self, sequences: Mapping[str, Sequence]) -> FinishedStep:
        """Return the step that is due, empty if there is none. Raises whatever the runner raises.

        sequences: the requests still wanted, by id; chunks of others are left out.
        """
        due, self._due = self._due, None
        if due is None:
            return FinishedStep([], [], 0.0)
        results = due.launched.results()
        if not self._overlaps:  # nothing was aborted since the launch
            return FinishedStep(due.chunks, results, self._clock() - self._started_s)
        self._pool.release(due.blocks)
        wanted = [
            (chunk, result)
            for chunk, result in zip(due.chunks, results, strict=True)
            if _is_in(chunk, sequences)
        ]
        return FinishedStep(
            [chunk for chunk, _ in wanted],
            [result for _, result in wanted],
            self._clock() - self._started_s,
        )

    def _can_continue(self, sequence: Sequence) -> bool:
        """Return whether the sequence can run another step before its next token is known."""
        sampling = sequence.request.sampling
        is_last = sequence.num_outputs + 1 >= sampling.max_tokens
        is_full = len(sequence.token_ids) + 1 >= self._max_len
        needs_it = (
            sequence.grammar is not None
            or _depends_on_outputs(sampling)
            or needs_next_token(sequence)
        )
        return not (is_last or is_full or needs_it)


def _depends_on_outputs(sampling: SamplingParams) -> bool:
    """Return whether sampling depends on earlier output tokens, other than through the model."""
    return (
        sampling.repetition_penalty != 1
        or sampling.presence_penalty != 0
        or sampling.frequency_penalty != 0
        or any(len(word) > 1 for word in sampling.bad_words)
    )


def _is_in(chunk: Chunk, sequences: Mapping[str, Sequence]) -> bool:
    """Return whether the chunk's own sequence is there, not a later one with the same id."""
    return sequences.get(chunk.sequence.request.request_id) is chunk.sequence


def _written_blocks(chunks: Iterable[Chunk], block_size: int) -> list[int]:
    return [
        block
        for chunk in chunks
        for block in chunk.sequence.blocks[chunk.start // block_size : -(-chunk.end // block_size)]
    ]
