"""The stopwatch of a start, and that loading a model uses it."""

import time
from pathlib import Path

import pytest

from headrace.protocol.config import EngineConfig
from headrace.workers import start_phases
from headrace.workers.build import build_engine
from headrace.workers.start_phases import StartPhases
from tests.workers.tiny_models import MODELS, save_model


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_phases_are_told_in_one_line_in_the_order_of_a_start(clock: Clock) -> None:
    phases = StartPhases(since=99.0)
    clock.now = 102.0
    phases.end_imports()
    for name, seconds in (("compile", 1.0), ("self-check", 0.5), ("weights", 0.25)):
        with phases.phase(name):
            clock.now += seconds
    clock.now += 0.25
    said = phases.describe()
    assert said == (
        "ready after 5.0 s: imports 3.0, weights 0.2, compile 1.0, self-check 0.5, rest 0.2"
    )


def test_a_phase_that_comes_twice_is_added_up(clock: Clock) -> None:
    phases = StartPhases()
    for _ in range(2):
        with phases.phase("compile"):
            clock.now += 1.5
    assert phases.seconds() == {"compile": 3.0}
    assert phases.describe() == "ready after 3.0 s: compile 3.0"


def test_a_phase_that_fails_counts(clock: Clock) -> None:
    phases = StartPhases()

    def fail() -> None:
        with phases.phase("weights"):
            clock.now += 2.0
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert phases.seconds() == {"weights": 2.0}


def test_a_process_is_timed_from_its_own_start() -> None:
    begun = time.monotonic()
    phases = StartPhases.of_process()
    phases.end_imports()
    assert 0 <= phases.seconds()["imports"] < begun + 1


def test_loading_a_model_is_timed_by_phases(tmp_path: Path) -> None:
    save_model(tmp_path, *MODELS["llama"])
    phases = StartPhases()
    build_engine(tmp_path, EngineConfig(kv_cache_bytes=2**20), 1, print, phases=phases)
    assert list(phases.seconds()) == list(start_phases.PHASES)
