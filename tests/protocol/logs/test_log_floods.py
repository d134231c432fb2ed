"""Warnings that repeat themselves: one line, then a count."""

import logging
from collections.abc import Iterator

import pytest

from headrace.protocol.logs.flood_filter import INTERVAL_S, MAX_KINDS, MAX_OF_A_PLACE, FloodFilter
from headrace.protocol.logs.record import SafeRecord
from tests.protocol.logs.logging_processes import lines_of


class Shown(logging.Handler):
    """Keeps the messages that pass a filter."""

    def __init__(self, floods: FloodFilter) -> None:
        super().__init__()
        self.addFilter(floods)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shown(clock: Clock) -> Iterator[Shown]:
    handler = Shown(FloodFilter(clock))
    logger = logging.getLogger("floods")
    logger.addHandler(handler)
    logger.propagate = False
    yield handler
    logger.removeHandler(handler)


def warn(text: str, line: int = 1, level: int = logging.WARNING) -> None:
    logging.getLogger("floods").handle(
        SafeRecord("floods", level, "module.py", line, "%s", (text,), None)
    )


def test_equal_warnings_are_shown_once_a_minute_and_counted(clock: Clock, shown: Shown) -> None:
    for _ in range(480):
        warn("cannot accept connections")
        clock.now_s += 0.125
    assert shown.messages == ["cannot accept connections"]
    warn("cannot accept connections")
    assert shown.messages == [
        "cannot accept connections",
        "cannot accept connections (479 more times within 60 s)",
        "cannot accept connections",
    ]


def test_count_comes_with_the_next_record_of_any_kind(clock: Clock, shown: Shown) -> None:
    warn("cannot reach X")
    warn("cannot reach X")
    clock.now_s += INTERVAL_S
    warn("ready", line=2, level=logging.INFO)
    assert sorted(shown.messages) == [
        "cannot reach X",
        "cannot reach X (1 more times within 60 s)",
        "ready",
    ]


def test_different_warnings_are_all_shown(shown: Shown) -> None:
    for number in range(MAX_OF_A_PLACE):
        warn(f"lost worker {number}")
    assert len(shown.messages) == MAX_OF_A_PLACE


def test_texts_that_clients_vary_are_limited(clock: Clock, shown: Shown) -> None:
    for number in range(10 * MAX_OF_A_PLACE):
        warn(f"unknown field {number}")
    assert len(shown.messages) == MAX_OF_A_PLACE
    clock.now_s += INTERVAL_S
    warn("another", line=2)
    assert any(
        f"({9 * MAX_OF_A_PLACE} more from the same place" in message for message in shown.messages
    )


def test_what_is_no_warning_is_never_left_out(shown: Shown) -> None:
    for _ in range(500):
        warn("a request", level=logging.INFO)
    assert len(shown.messages) == 500


def test_memory_is_bounded(shown: Shown) -> None:
    floods = shown.filters[0]
    assert isinstance(floods, FloodFilter)
    for number in range(3 * MAX_KINDS):
        warn(f"text {number}", line=number)
    assert len(floods._kinds) <= MAX_KINDS


def test_the_end_of_a_process_tells_the_rest() -> None:
    program = 'for _ in range(50):\n  log.error("cannot write")'
    lines = lines_of(program)
    assert len(lines) == 2
    assert "(49 more times" in lines[1]
