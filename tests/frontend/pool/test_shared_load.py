"""Requests in flight that all frontends of a machine see of each other."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.frontend.pool.shared_load import FRESH_S, STARTS, SharedLoad, open_shared_load

DIES = """
import os, sys
from pathlib import Path
from headrace.frontend.pool.shared_load import SharedLoad
load = SharedLoad(Path(sys.argv[1]), "frontend-1.0")
load.publish("g-0.0", 7)
os._exit(0)
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: int(now[0] * 1e9))
    return now


def frontends(folder: Path, count: int) -> list[SharedLoad]:
    opened = [SharedLoad(folder, f"frontend-{number}.0") for number in range(count)]
    for each in opened:
        each.refresh()
    return opened


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.sampled_from(["a-0.0", "a-1.4", "b-0.2"]), st.integers(0, 9)
        )
    )
)
def test_all_see_the_sum_of_what_each_has_said_last(said: list[tuple[int, str, int]]) -> None:
    with TemporaryDirectory() as folder:
        views, last = frontends(Path(folder), 4), Counter[tuple[int, str]]()
        for speaker, worker_id, count in said:
            views[speaker].publish(worker_id, count)
            last[speaker, worker_id] = count
            total = sum(n for (_, named), n in last.items() if named == worker_id)
            assert [view.in_flight(worker_id) for view in views] == [total] * 4
        for view in views:
            view.close()


def test_worker_that_starts_again_has_nothing_of_the_one_before(tmp_path: Path) -> None:
    one, other = frontends(tmp_path, 2)
    one.publish("g-0.0", 5)
    for start in range(1, STARTS):
        assert other.in_flight(f"g-0.{start}") == 0
    one.publish(f"g-0.{STARTS}", 0)  # it has got the cells of the first
    assert other.in_flight(f"g-0.{STARTS}") == 0


def test_frontend_that_is_stopped_counts_no_more_until_it_goes_on(
    tmp_path: Path, clock: list[float]
) -> None:
    stopped, other = frontends(tmp_path, 2)
    stopped.publish("g-0.0", 5)
    other.publish("g-0.0", 1)
    assert other.in_flight("g-0.0") == 6
    clock[0] += FRESH_S
    other.refresh()
    assert other.in_flight("g-0.0") == 1
    assert not other.sees("frontend-0.0")
    stopped.refresh()
    other.refresh()
    assert other.in_flight("g-0.0") == 6
    assert other.sees("frontend-0.0")


def test_frontend_that_ends_leaves_nothing(tmp_path: Path) -> None:
    one, other = frontends(tmp_path, 2)
    one.publish("g-0.0", 5)
    one.close()
    one.close()
    one.publish("g-0.0", 5)
    assert other.in_flight("g-0.0") == 0
    assert one.in_flight("g-0.0") == 0


def test_successor_takes_the_row_of_one_that_was_killed_and_clears_it(tmp_path: Path) -> None:
    watching = SharedLoad(tmp_path, "frontend-0.0")
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=True)
    watching.refresh()
    assert watching.in_flight("g-0.0") == 7
    successor = SharedLoad(tmp_path, "frontend-1.1")
    watching.refresh()
    assert watching.in_flight("g-0.0") == 0
    assert watching.sees("frontend-1.1")
    assert not watching.sees("frontend-1.0")
    successor.publish("g-0.0", 2)
    assert watching.in_flight("g-0.0") == 2


def test_two_frontends_of_one_place_both_count(tmp_path: Path) -> None:
    """The one drains while the other has begun."""
    old, new = SharedLoad(tmp_path, "frontend-0.0"), SharedLoad(tmp_path, "frontend-0.1")
    old.publish("g-0.0", 3)
    new.publish("g-0.0", 1)
    assert new.in_flight("g-0.0") == 4


def test_hundreds_of_workers_and_new_groups_find_room(tmp_path: Path) -> None:
    one, other = frontends(tmp_path, 2)
    names = [f"{group}-{place}.0" for group in "ab" for place in range(300)]
    for count, name in enumerate(names):
        one.publish(name, count)
    assert [other.in_flight(name) for name in names] == list(range(len(names)))
    one.retain(names[:1])
    assert one.in_flight(names[0]) == 0


def test_without_space_nothing_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = frontends(tmp_path, 2)
    one.publish("g-0.0", 3)
    assert other.in_flight("g-0.0") == 3

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert open_shared_load(tmp_path, "frontend-2.0") is None
    one.publish("g-1.0", 1)
    assert not one.is_open
    other.refresh()
    assert other.in_flight("g-0.0") == 0
    assert not other.sees("frontend-0.0")


def test_a_frontend_that_was_held_up_while_it_looked_still_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between stamping its own row and reading the clock again, it may be stopped for long."""
    first, second = frontends(tmp_path, 2)
    first.publish("g-0.0", 3)
    second.publish("g-0.0", 4)
    times = iter([200 * 10**9, 200 * 10**9 + int(5 * FRESH_S * 1e9)])
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic_ns", lambda: next(times))
        second.refresh()
    assert second.in_flight("g-0.0") == 4, "the other has not been seen since"
    assert second.sees("frontend-1.0")
