"""The engine's thread: commands in, events out, and how it ends."""

import contextlib
import errno
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Abort, Generate
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.engine.replica_engine import CacheSize
from headrace.workers.engine.runner import Runner
from headrace.workers.errors import ModelUnsupported
from headrace.workers.process.engine_memory import EngineMemory
from headrace.workers.process.engine_thread import (
    EngineDied,
    EngineReady,
    EngineRejected,
    EngineStepped,
    EngineThread,
    Event,
    Operation,
    OperationDone,
)
from headrace.workers.sequence.sequence import Chunk, ChunkResult


def no_runner() -> Runner:
    raise AssertionError("nothing is loaded again")


class Thread(EngineThread):
    """One that an operation can end."""

    def run(self) -> None:
        with contextlib.suppress(SystemExit):
            super().run()


MakeThread = Callable[[Callable[[], Engine]], EngineThread]


@pytest.fixture
def make_thread() -> Iterator[MakeThread]:
    """Makes threads that end with the test: one that goes on takes time from all tests after it,
    and its events, which nothing takes any more, fill the memory."""
    made: list[EngineThread] = []

    def make(build: Callable[[], Engine]) -> EngineThread:
        made.append(Thread(build, no_runner))
        return made[-1]

    yield make
    for each in made:
        each.submit(Operation("end", lambda residence: sys.exit()))
        each.join(10)
        assert not each.is_alive()
        os.close(each.wake_fd)


def fake_engine(step_s: float = 0.0) -> Engine:
    runner = FakeRunner(
        vocab_size=100, max_model_len=64, num_blocks=64, block_size=4, step_s=step_s
    )
    return assemble_engine(runner, max_num_seqs=8, max_num_batched_tokens=64)


def request(request_id: str, max_tokens: int = 3, prompt: tuple[int, ...] = (1,)) -> Generate:
    return Generate(request_id, prompt, SamplingParams(seed=0, max_tokens=max_tokens))


def events_until(thread: EngineThread, ended: Callable[[list[Event]], bool]) -> list[Event]:
    """All events up to the one that makes `ended` true; waits as the messaging thread does."""
    events: list[Event] = []
    deadline = time.monotonic() + 10
    while not ended(events):
        assert time.monotonic() < deadline, events
        if select.select([thread.wake_fd], [], [], 0.1)[0]:
            events += thread.drain_events()
    return events


def outputs_of(events: list[Event]) -> list[Output]:
    return [out for event in events if isinstance(event, EngineStepped) for out in event.outputs]


def test_loads_then_runs_what_is_submitted(make_thread: MakeThread) -> None:
    thread = make_thread(fake_engine)
    thread.submit(request("early"))
    thread.start()
    events = events_until(thread, lambda seen: any(o.finish_reason for o in outputs_of(seen)))
    assert events[0] == EngineReady((), CacheSize(64, 4), ("generate",))
    assert [output.position for output in outputs_of(events)] == [0, 1, 2]
    thread.submit(request("late"))
    events = events_until(thread, lambda seen: any(o.finish_reason for o in outputs_of(seen)))
    assert {output.request_id for output in outputs_of(events)} == {"late"}


def test_refusal_is_an_event_and_the_thread_goes_on(make_thread: MakeThread) -> None:
    thread = make_thread(fake_engine)
    thread.start()
    thread.submit(request("bad", prompt=(1000,)))
    thread.submit(request("good"))
    events = events_until(thread, lambda seen: any(o.finish_reason for o in outputs_of(seen)))
    refused = [event for event in events if isinstance(event, EngineRejected)]
    assert [event.request_id for event in refused] == ["bad"]
    assert {output.request_id for output in outputs_of(events)} == {"good"}


def test_abort_frees_the_place(make_thread: MakeThread) -> None:
    thread = make_thread(lambda: fake_engine(step_s=0.005))
    thread.start()
    thread.submit(request("a", max_tokens=60))
    events_until(thread, lambda seen: len(outputs_of(seen)) > 2)
    assert thread.load().running == 1
    thread.submit(Abort(("a", "unknown")))
    deadline = time.monotonic() + 5
    while thread.load().running:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert thread.load().step_age_s == 0.0


def test_age_grows_while_a_step_hangs_and_is_none_while_idle(make_thread: MakeThread) -> None:
    thread = make_thread(lambda: fake_engine(step_s=1.0))
    thread.start()
    events_until(thread, lambda seen: bool(seen))
    assert thread.load().step_age_s == 0.0
    thread.submit(request("a"))
    ages = []
    for _ in range(4):
        time.sleep(0.1)
        ages.append(thread.load().step_age_s)
    assert ages == sorted(ages)
    assert ages[-1] > ages[0] > 0.0


def test_turns_that_run_nothing_are_no_progress(make_thread: MakeThread) -> None:
    """Else an engine that can never run what it has would seem to be well."""
    engines: list[Engine] = []

    def build() -> Engine:
        engines.append(fake_engine(step_s=0.005))
        return engines[0]

    thread = make_thread(build)
    thread.submit(request("a", max_tokens=60))
    thread.start()
    events_until(thread, lambda seen: len(outputs_of(seen)) > 2)
    engines[0].step = lambda: []  # type: ignore[method-assign]
    time.sleep(0.3)
    assert thread.load().running == 1
    assert thread.load().step_age_s > 0.2


def test_steps_tell_how_long_they_took(make_thread: MakeThread) -> None:
    thread = make_thread(lambda: fake_engine(step_s=0.02))
    thread.submit(request("a"))
    thread.start()
    events = events_until(thread, lambda seen: any(o.finish_reason for o in outputs_of(seen)))
    steps = [event.step_s for event in events if isinstance(event, EngineStepped)]
    assert all(0.02 <= step_s < 1 for step_s in steps)


def test_model_that_cannot_be_served_is_hopeless(make_thread: MakeThread) -> None:
    def build() -> Engine:
        raise ModelUnsupported("it has wings")

    thread = make_thread(build)
    thread.start()
    (event,) = events_until(thread, lambda seen: bool(seen))
    assert event == EngineDied("it has wings", hopeless=True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("needs quanto\nTraceback ..."), "ImportError: needs quanto"),
        (KeyError("rope_type"), "KeyError: 'rope_type'"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("\n shapes 3 and 4 differ"), "RuntimeError: shapes 3 and 4 differ"),
        (FileNotFoundError(errno.ENOENT, "no such file"), "FileNotFoundError: [Errno 2] no such "),
    ],
)
def test_a_start_that_fails_is_one_line_and_hopeless(
    make_thread: MakeThread, error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    def build() -> Engine:
        raise error

    thread = make_thread(build)
    thread.start()
    (event,) = events_until(thread, lambda seen: bool(seen))
    assert isinstance(event, EngineDied)
    assert event.hopeless
    assert event.reason.startswith(f"the model cannot be loaded: {reason}")
    assert "\n" not in event.reason
    assert not [each for each in caplog.records if each.levelno > logging.DEBUG]


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "files"), torch.OutOfMemoryError("GPU")])
def test_what_the_system_refuses_for_now_is_tried_again(
    make_thread: MakeThread, error: Exception
) -> None:
    def build() -> Engine:
        raise error

    thread = make_thread(build)
    thread.start()
    (event,) = events_until(thread, lambda seen: bool(seen))
    assert isinstance(event, EngineDied)
    assert not event.hopeless


def test_failing_step_ends_the_engine_with_its_reason(make_thread: MakeThread) -> None:
    class Broken(FakeRunner):
        def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
            raise RuntimeError("the device is gone")

    def build() -> Engine:
        runner = Broken(vocab_size=100, max_model_len=64, num_blocks=64, block_size=4)
        return assemble_engine(runner, max_num_seqs=8, max_num_batched_tokens=64)

    thread = make_thread(build)
    thread.submit(request("a"))
    thread.start()
    events = events_until(thread, lambda seen: len(seen) == 2)
    assert events[1] == EngineDied("RuntimeError: the device is gone", hopeless=False)
    thread.join(5)
    assert not thread.is_alive()


def test_a_frozen_engine_makes_no_step_and_does_not_hang(make_thread: MakeThread) -> None:
    thread = make_thread(lambda: fake_engine(step_s=0.002))
    thread.start()

    def freeze(is_frozen: bool) -> list[Event]:
        def act(residence: EngineMemory) -> None:
            thread.freeze(is_frozen)

        thread.submit(Operation("freeze", act))
        return events_until(thread, lambda seen: any(isinstance(e, OperationDone) for e in seen))

    thread.submit(request("a", max_tokens=60))
    events_until(thread, lambda seen: len(outputs_of(seen)) > 2)
    freeze(True)
    steps = thread.load().steps
    thread.submit(request("b"))
    time.sleep(0.05)
    load = thread.load()
    assert (load.steps, load.step_age_s) == (steps, 0.0)
    before = freeze(False)  # they may end at once

    def all_ended(seen: list[Event]) -> bool:
        outputs = outputs_of([*before, *seen])
        return {each.request_id for each in outputs if each.finish_reason} == {"a", "b"}

    events_until(thread, all_ended)
