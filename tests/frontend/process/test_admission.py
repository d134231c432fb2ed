"""Connections by address, counted by several frontends in one file."""

import random
from collections import Counter
from pathlib import Path

import pytest

from headrace.frontend.process.admission import AddressCounts, key_of


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::1", True),
    ],
)
def test_whose_connections_count_together(one: str, other: str, are_same: bool) -> None:
    assert (key_of(one) == key_of(other)) is are_same


def test_counts_of_all_frontends_are_added(tmp_path: Path) -> None:
    """Whatever comes and goes, also where addresses share a place in the table."""
    counts = [AddressCounts(tmp_path / "addresses", index, 3) for index in range(3)]
    keys = [key_of(f"10.0.{n // 200}.{n % 200}") for n in range(500)] + [
        7 + 8192 * n for n in range(9)
    ]
    true: list[Counter[int]] = [Counter() for _ in counts]
    dice = random.Random(1)
    for _ in range(20_000):
        index, key = dice.randrange(3), dice.choice(keys)
        change = 1 if not true[index][key] or dice.random() < 0.5 else -1
        true[index][key] += change
        counts[index].add(key, change)
    for key in keys:
        assert {each.count(key) for each in counts} == {sum(each[key] for each in true)}


def test_successor_takes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its predecessor still has does not count, and does not change its counts."""
    other, before = (AddressCounts(tmp_path / "addresses", index, 2) for index in range(2))
    before.add(1, 1)
    before.add(2, 1)
    assert other.count(1) == 1
    pid = 1234567
    monkeypatch.setattr("headrace.frontend.process.admission.os.getpid", lambda: pid)
    after = AddressCounts(tmp_path / "addresses", 1, 2)
    after.add(2, 1)
    monkeypatch.undo()
    before.add(1, -1)
    before.add(2, -1)
    before.add(3, 1)
    assert [other.count(key) for key in (1, 2, 3)] == [0, 1, 0]
