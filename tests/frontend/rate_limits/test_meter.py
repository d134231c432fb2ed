"""What is used of a limit a minute, as a function of time."""

import random

import pytest

from headrace.frontend.rate_limits.headers import duration
from headrace.frontend.rate_limits.meter import MICRO, Level

SECOND_NS = 1_000_000_000


def test_a_minutes_worth_is_taken_at_once_and_then_at_the_rate() -> None:
    level, taken = Level(60, 0, 0), [0, 0]
    for step in range(2000):  # a tenth of a second each
        level = level.at(step * SECOND_NS // 10)
        while level.has_room(1):
            level = level.add(1)
            taken[step > 0] += 1
    assert taken[0] == 60
    assert abs(taken[1] - 199) <= 1


def test_no_span_holds_more_than_the_limit_and_what_flows_off() -> None:
    rng = random.Random(1)
    limit = 100
    level, taken, now = Level(limit, 0, 0), list[tuple[int, int]](), 0
    for _ in range(3000):
        now += rng.randrange(SECOND_NS)
        count = rng.randint(1, 30)
        level = level.at(now)
        if level.has_room(count):
            level = level.add(count)
            taken.append((now, count))
    for start in range(0, len(taken), 7):
        total = 0
        for at, count in taken[start : start + 300]:
            total += count
            span_s = (at - taken[start][0]) / SECOND_NS
            assert total <= limit * (1 + span_s / 60) + 0.01


def test_waiting_as_long_as_is_said_is_enough_and_needed() -> None:
    rng = random.Random(2)
    for _ in range(500):
        limit = rng.randint(1, 1000)
        level = Level(limit, rng.randrange(3 * limit * MICRO), 0)
        count, spare = rng.randint(1, limit), rng.choice([0, limit // 2])
        wait_ns = int(level.wait_s(count, spare) * SECOND_NS)
        assert level.at(wait_ns + SECOND_NS // 100).has_room(count, spare)
        if wait_ns > SECOND_NS // 10:
            assert not level.at(wait_ns - SECOND_NS // 10).has_room(count, spare)


def test_another_limit_applies_to_what_was_used_before() -> None:
    level = Level(100, 80 * MICRO, 0)
    assert not Level(50, level.used, 0).has_room(1)
    assert Level(200, level.used, 0).remaining == 120


def test_a_time_from_before_a_boot_is_as_now() -> None:
    level = Level(10, 10 * MICRO, 10**18).at(5)
    assert (level.used, level.at_ns) == (10 * MICRO, 5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "0s"),
        (0.017, "17ms"),
        (1, "1s"),
        (7.66, "7.66s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3723.5, "1h2m3.5s"),
        (3600, "1h0m0s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text
