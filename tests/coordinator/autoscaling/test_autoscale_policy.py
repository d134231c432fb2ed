"""The policy of a group's size, by lists of events."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.coordinator.autoscaling.autoscale_policy import (
    BACKOFF_S,
    MAX_BACKOFF_S,
    Decision,
    Observation,
    Policy,
)
from headrace.protocol.autoscaling import Autoscaling

UP_S, DOWN_S = 10.0, 60.0


class Group:
    """A group that has at once whatever size is decided. Each worker is to have ten requests."""

    def __init__(self, size: int = 1, **options: float) -> None:
        chosen = {"min_workers": 1, "max_workers": 8, "target_requests": 10.0}
        chosen |= {"up_window_s": UP_S, "down_window_s": DOWN_S}
        self.policy = Policy(Autoscaling(**(chosen | options)))
        self.size, self.now = size, 0.0
        self.sizes = [size]
        self.last = Decision(size, 0)
        self.reasons: list[str] = []

    def see(self, requests: int, seconds: int = 1, **seen: Any) -> int:
        """So many requests for so long; the size then."""
        for _ in range(seconds):
            observation = Observation(self.now, self.size, requests, **seen)
            self.last = self.policy.observe(observation)
            if self.last.size != self.size:
                self.reasons.append(self.last.reason)
                self.sizes.append(self.last.size)
            self.size = self.last.size
            self.now += 1.0
        return self.size

    def play(self, loads: Iterable[int]) -> None:
        for requests in loads:
            self.see(requests)


def test_it_grows_when_more_is_needed_for_the_whole_window() -> None:
    group = Group(size=2)
    assert group.see(37, seconds=10) == 2
    assert group.see(37) == 4
    assert group.last.cause == "requests"
    assert group.reasons == ["37 requests, target 10 a worker, for 10 s"]


def test_a_moment_of_less_begins_the_window_anew() -> None:
    group = Group(size=3)
    group.see(40, seconds=9)
    group.see(20)
    assert group.see(40, seconds=9) == 3
    group.see(40, seconds=2)
    assert group.size == 4


def test_what_was_needed_all_the_time_is_ordered_and_no_peak() -> None:
    group = Group(size=3)
    group.play([36, 48] * 6)
    assert group.size == 4


def test_a_little_more_than_the_target_is_near_enough() -> None:
    group = Group(size=4)
    assert group.see(44, seconds=30) == 4
    assert group.see(45, seconds=12) == 5


def test_a_burst_is_answered_after_a_part_of_the_window() -> None:
    group = Group(size=2)
    group.see(20)
    assert group.see(60, seconds=2) == 2
    assert group.see(60) == 6
    assert "for 2 s" in group.reasons[0]


def test_it_shrinks_step_by_step_to_the_most_that_was_needed_in_the_window() -> None:
    group = Group(size=8)
    group.see(80, seconds=5)
    group.play([25] * 30 + [39] + [5] * 29)
    assert group.size == 8
    group.see(5)
    assert group.size == 7
    assert group.reasons == ["that was enough for 60 s; 5 requests, target 10 a worker"]
    group.see(5, seconds=5)
    assert group.size == 7
    group.see(5, seconds=20)
    assert group.size == 4  # the 39 are still to be seen
    group.see(5, seconds=60)
    assert (group.size, group.sizes) == (1, [8, 7, 6, 5, 4, 3, 2, 1])


def test_a_large_group_shrinks_by_a_tenth_at_once() -> None:
    group = Group(size=1000, max_workers=1000)
    group.see(5000, seconds=61)
    assert group.size == 900
    group.see(5000, seconds=60)
    assert group.size == 500


def test_without_any_request_it_shrinks_at_once() -> None:
    group = Group(size=1000, max_workers=1000, min_workers=2)
    group.see(0, seconds=61)
    assert group.size == 2


def test_it_never_leaves_its_limits() -> None:
    group = Group(size=2, min_workers=2, max_workers=4)
    assert group.see(0, seconds=100) == 2
    assert group.see(1000, seconds=5) == 4
    assert "--max-workers" in group.last.held
    assert group.last.needed == 100
    assert Group(size=1, min_workers=3).see(0) == 3
    assert Group(size=9).see(0) == 8


def test_to_nothing_only_without_any_request_and_from_nothing_at_once() -> None:
    group = Group(size=1, min_workers=0)
    assert group.see(1, seconds=200) == 1
    group.see(0, seconds=60)
    assert group.size == 1
    group.see(0, seconds=2)
    assert group.size == 0
    assert group.reasons == ["no request for 60 s"]
    assert group.see(25) == 3
    assert "no worker" in group.reasons[-1]


def test_waiting_tokens_count_where_they_need_more() -> None:
    group = Group(size=1, target_tokens=1000.0)
    assert group.see(3, seconds=12, tokens=4000) == 4
    assert group.reasons == ["4000 prompt tokens wait, target 1000 a worker, for 2 s"]
    assert Group(size=1).see(3, seconds=30, tokens=10**9) == 1


def test_silent_workers_are_no_reason_to_shrink_or_to_grow() -> None:
    group = Group(size=3)
    assert group.see(0, seconds=100, silent=3) == 3
    assert group.see(0, seconds=100, silent=2) == 2
    assert group.see(0, seconds=100) == 1
    assert Group(size=1).see(5, seconds=100, silent=1) == 1


def test_a_group_whose_workers_fail_grows_no_further() -> None:
    group = Group(size=2)
    assert group.see(80, seconds=30, problem="out of memory") == 2
    assert "out of memory" in group.last.held
    assert group.see(80) == 8


def test_what_could_not_be_started_is_tried_again_later_each_time() -> None:
    group = Group(size=2)
    group.see(80, seconds=11)
    for delay_s in (BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S):
        group.size = 3
        group.policy.on_failed(3, group.now)
        assert group.see(80, seconds=int(delay_s)) == 3
        assert "tried again in" in group.last.held
        assert group.see(80) == 8
    group.policy.on_grown(8)
    group.policy.on_failed(3, group.now)
    group.size = 3
    group.see(80, seconds=int(BACKOFF_S) + 1)
    assert group.size == 8


def test_the_wait_after_failures_has_an_end() -> None:
    group = Group(size=1)
    for _ in range(50):
        group.policy.on_failed(1, group.now)
    group.size = 1
    group.see(80, seconds=int(MAX_BACKOFF_S) + 12)
    assert group.size == 8


def test_it_may_grow_up_to_what_could_be_started_meanwhile() -> None:
    group = Group(size=2)
    group.policy.on_failed(3, group.now)
    assert group.see(80, seconds=12) == 3


def test_a_size_that_somebody_chose_holds_for_a_window() -> None:
    group = Group(size=1)
    group.see(5, seconds=200)
    group.size = 6
    group.policy.restart()
    assert group.see(5, seconds=60) == 6
    group.see(5)
    assert group.size == 5


def test_a_new_coordinator_shrinks_nothing_before_it_has_seen_a_window() -> None:
    assert Group(size=8).see(0, seconds=60) == 8


@pytest.mark.parametrize("up_s", [0.0, 1.0])
def test_without_windows_it_follows_at_once(up_s: float) -> None:
    group = Group(size=1, up_window_s=up_s, down_window_s=0.0)
    group.see(30, seconds=3)
    assert group.size == 3
    assert group.see(0, seconds=2) == 1


loads = st.lists(st.integers(0, 400), min_size=1, max_size=150)
windows = st.sampled_from([0.0, 1.0, 3.0, 10.0])


@given(loads, windows, windows, st.integers(0, 3), st.integers(3, 12), st.integers(0, 12))
def test_no_load_takes_it_out_of_its_limits(
    loads: list[int], up_s: float, down_s: float, least: int, most: int, size: int
) -> None:
    group = Group(size, min_workers=least, max_workers=most, up_window_s=up_s, down_window_s=down_s)
    group.play(loads)
    assert all(least <= each <= most for each in group.sizes[1:])
    assert least <= group.size <= most


@given(loads, windows, windows, st.integers(0, 100))
def test_a_load_that_stays_is_answered_once(
    loads: list[int], up_s: float, down_s: float, requests: int
) -> None:
    """Whatever was before: at most the way to the right size, and then rest."""
    group = Group(up_window_s=up_s, down_window_s=down_s, max_workers=12)
    group.play(loads)
    group.see(requests, seconds=25)
    rest = group.size
    group.sizes.clear()
    group.see(requests, seconds=100)
    assert group.sizes == []
    assert requests <= rest * 10 * 1.1 or rest == 12
    assert requests > (rest - 1) * 10 or rest == 1


@given(loads, st.integers(0, 40))
def test_a_size_in_reach_of_the_load_is_never_left_for_less_than_the_load(
    loads: list[int], requests: int
) -> None:
    group = Group(size=1, down_window_s=10.0)
    for each in loads:
        before = group.size
        group.see(each)
        assert group.size >= before or group.size * 10 >= each
