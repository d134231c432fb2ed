"""A fake device whose slots have what a recurrent layer's would: a digest of all tokens so far."""

from typing import Any

from headrace.protocol.to_worker import Generate
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.engine.state_cache import StateCache
from headrace.workers.sequence.state_use import StateUse
from tests.workers.driving import Answer, request, run
from tests.workers.engine.overlapping import Job, LateRunner, overlapping_engine

EMPTY = 0  # the state before the first token
LONG: dict[str, Any] = {
    "vocab_size": 50,
    "max_model_len": 1024,
    "num_blocks": 256,
    "block_size": 16,
}


def digest(state: int, tokens: list[int]) -> int:
    for token in tokens:
        state = hash((state, token))
    return state


class StatefulRunner(LateRunner):
    """Fails when a chunk begins with a state that is not that of the tokens before it."""

    def __init__(self, *, num_state_slots: int, overlaps: bool = True, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.overlaps = overlaps
        self.num_state_slots = num_state_slots
        self.num_restored = self.num_saved = 0
        self.states: list[int | None] = [None] * num_state_slots

    def release_cache(self) -> None:
        super().release_cache()
        self.states = [None] * self.num_state_slots
        self.memory = [[None] * self.block_size for _ in range(self.num_blocks)]

    def _execute(self, job: Job) -> None:
        super()._execute(job)
        uses = [chunk.state for chunk in job.chunks if chunk.state is not None]
        assert len(uses) == len(job.chunks), "a chunk has no state"
        self._restore(uses)
        for chunk, blocks, use in zip(job.chunks, job.blocks, uses, strict=True):
            text = self.cached_text(chunk.end, blocks)
            before = EMPTY if chunk.start == 0 else self.states[use.slot]
            assert before == digest(EMPTY, text[: chunk.start]), "another text's state"
            self.states[use.slot] = digest(before, text[chunk.start :])
        self._save(uses)

    def _restore(self, uses: list[StateUse]) -> None:
        slots = {use.slot for use in uses}
        assert len(slots) == len(uses), "two chunks have one slot"
        for use in uses:
            if use.restored_from is not None:
                assert use.restored_from not in slots, "a snapshot in a slot that is used"
                self.states[use.slot] = self.states[use.restored_from]
                self.num_restored += 1

    def _save(self, uses: list[StateUse]) -> None:
        saved = [use.saved_to for use in uses if use.saved_to is not None]
        used = {use.slot for use in uses} | set(saved)
        assert len(used) == len(uses) + len(saved), "a snapshot in a slot that is used"
        for use in uses:
            if use.saved_to is not None:
                self.states[use.saved_to] = self.states[use.slot]
                self.num_saved += 1


def stateful_engine(*, num_state_slots: int = 16, overlaps: bool = True, **options: Any) -> Engine:
    def make_runner(**sizes: Any) -> StatefulRunner:
        return StatefulRunner(num_state_slots=num_state_slots, overlaps=overlaps, **sizes)

    return overlapping_engine(make_runner, **options)


def runner_of(engine: Engine) -> StatefulRunner:
    assert isinstance(engine.runner, StatefulRunner)
    return engine.runner


def states_of(engine: Engine) -> StateCache:
    states = engine._scheduler._states
    assert states is not None
    return states


def assert_empty(engine: Engine) -> None:
    """Nothing is held: no request, no block, and each slot is free or has a snapshot."""
    assert not engine.has_work
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
    assert engine._pool._holders == [0] * engine._pool.num_blocks
    states, slots = states_of(engine), states_of(engine).slots
    assert (states._num_held, states._saving) == (0, {})
    assert sorted([*slots._free, *slots._snapshots]) == list(range(slots.num_slots))
    assert sorted(slots._slot_of.values()) == sorted(slots._snapshots)
    assert not any(snapshot.pins for snapshot in slots._snapshots.values())


def plain_engine(**sizes: Any) -> Engine:
    """An engine whose runner runs one step after the other, without caches and states."""
    runner = FakeRunner(
        **{"vocab_size": 50, "max_model_len": 48, "num_blocks": 64, "block_size": 4, **sizes}
    )
    return assemble_engine(
        runner, max_num_seqs=8, max_num_batched_tokens=64, enable_prefix_caching=False
    )


def long_engine(**options: Any) -> Engine:
    """An engine without a clock, so that its steps have room for all the tokens that they may."""
    options = {**LONG, "max_num_batched_tokens": 512, "clock": lambda: 0.0, **options}
    engine = stateful_engine(**options)
    engine._scheduler._budget._largest = 512
    return engine


def text_of(one: Generate) -> list[int]:
    return run(plain_engine(**LONG), [(0, one)])[one.request_id].tokens


def cached(answer: Answer) -> int:
    admission = answer.outputs[0].admission
    assert admission is not None
    return admission.cached_tokens


def ask(engine: Engine, prompt: list[int], max_tokens: int = 3, **params: Any) -> int:
    """Run a request alone; its text is checked, and the number of its cached tokens returned."""
    one = request("r", prompt, max_tokens=max_tokens, **params)
    answer = run(engine, [(0, one)])["r"]
    assert answer.tokens == text_of(one)
    assert_empty(engine)
    return cached(answer)


def words(seed: int, count: int) -> list[int]:
    return [(seed * 31 + index * index * 7) % 50 for index in range(count)]
