"""Options of a group's size: what follows from them, and which do not go together."""

from pathlib import Path

import pytest

from headrace.coordinator.autoscaling.sliding_window import SlidingWindow
from headrace.launcher.command import units
from headrace.launcher.command.autoscale_options import resolve
from headrace.launcher.command.options import OptionError, parse
from headrace.protocol.autoscaling import DOWN_WINDOW_S, UP_WINDOW_S


def sizes(flags: str, default_size: int = 1) -> tuple[int, int, int] | tuple[int]:
    """Of the beginning, and least and most."""
    _, (group,), _ = parse(flags.split())
    size, chosen = resolve(group, group.workers, default_size, 100)
    return (size,) if chosen is None else (size, chosen.min_workers, chosen.max_workers)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", (1,)),
        ("--workers 3", (3,)),
        ("--max-workers 8", (1, 1, 8)),
        ("--min-workers 2", (2, 2, 2)),
        ("--min-workers 0", (1, 0, 1)),
        ("--min-workers 0 --workers 4", (4, 0, 4)),
        ("--min-workers 2 --max-workers 8", (2, 2, 8)),
        ("--min-workers 2 --max-workers 8 --workers 5", (5, 2, 8)),
        ("--min-workers 0 --max-workers 8 --workers 0", (0, 0, 8)),
    ],
)
def test_sizes_follow_from_what_is_given(flags: str, expected: tuple[int, ...]) -> None:
    assert sizes(flags) == expected


def test_a_group_begins_with_its_gpus_within_its_limits() -> None:
    assert sizes("--max-workers 4", default_size=8) == (4, 1, 4)
    assert sizes("--min-workers 0", default_size=8) == (8, 0, 8)


def test_targets_and_windows() -> None:
    _, (group,), _ = parse(["--max-workers", "4"])
    _, chosen = resolve(group, None, 1, 100)
    assert chosen is not None
    assert (chosen.target_requests, chosen.target_tokens) == (60, None)
    assert (chosen.up_window_s, chosen.down_window_s) == (UP_WINDOW_S, DOWN_WINDOW_S)
    flags = "--scale-target-requests 2.5 --scale-target-tokens 4000 --scale-up-window 0"
    _, (group,), _ = parse(f"--max-workers 4 {flags} --scale-down-window 7".split())
    _, chosen = resolve(group, None, 1, 100)
    assert chosen is not None
    assert (chosen.target_requests, chosen.target_tokens) == (2.5, 4000)
    assert (chosen.up_window_s, chosen.down_window_s) == (0, 7)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--min-workers 3 --max-workers 2", "--min-workers: must not exceed --max-workers"),
        ("--min-workers 0 --no-wake-on-demand", "--min-workers: 0 needs --wake-on-demand"),
        ("--max-workers 0", "--max-workers"),
        ("--max-workers 1025", "--max-workers: must not exceed 1024"),
        ("--min-workers -1", "--min-workers"),
        ("--max-workers 4 --workers 5", "--workers: must lie between"),
        ("--min-workers 2 --workers 1", "--workers: must lie between"),
        ("--max-workers 4 --workers 0", "--workers: must lie between"),
        ("--min-workers 0 --workers 0", "--workers: 0 needs --max-workers"),
        ("--workers 0", "--workers: 0 needs --min-workers"),
        ("--scale-target-tokens 5", "--scale-target-tokens: needs --min-workers or --max-workers"),
        ("--scale-up-window 5", "--scale-up-window: needs"),
        ("--max-workers 2 --scale-target-requests 0", "--scale-target-requests"),
        ("--max-workers 2 --scale-down-window -1", "--scale-down-window"),
    ],
)
def test_what_does_not_go_together_is_named(flags: str, named: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse(flags.split())
    assert named in str(caught.value)


def test_groups_of_a_file_have_their_own(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(
        '[[group]]\nname = "a"\n[[group]]\nname = "b"\nmin_workers = 0\nmax_workers = 3'
    )
    _, groups, _ = parse(["--config", str(file)])
    assert [resolve(each, each.workers, 1, 8)[0] for each in groups] == [1, 1]
    assert [each.max_workers for each in groups] == [None, 3]
    file.write_text(
        '[[group]]\nname = "a"\n[[group]]\nname = "b"\nmin_workers = 4\nmax_workers = 3'
    )
    with pytest.raises(OptionError, match="group 1: min_workers"):
        parse(["--config", str(file)])


def test_units_of_systemd_have_no_changing_number() -> None:
    _, groups, _ = parse(["--max-workers", "3"])
    with pytest.raises(OptionError, match="--max-workers: systemd"):
        units.check_sizes(groups)
    _, groups, _ = parse(["--workers", "3"])
    units.check_sizes(groups)


def test_a_window_forgets_what_is_older_than_it() -> None:
    window = SlidingWindow(3.0, max)
    for at, value in enumerate([1.0, 5.0, 2.0]):
        window.add(at, value)
        assert window.picked(at) is None  # not seen for long enough
    for at, value, expected in ((3, 3.0, 5.0), (4, 1.0, 5.0), (5, 1.0, 3.0), (9, 0.0, 0.0)):
        window.add(at, value)
        assert window.picked(at) == expected
    window.clear()
    assert window.picked(20) is None
