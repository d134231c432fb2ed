"""Comparing with another checkout: its layout, and the ratios of its runs."""

from pathlib import Path

import pytest

from bench.load.layouts import CURRENT, ROOT, WITHOUT_ROOT, environment, layout_of
from bench.load.records import ratio
from bench.roof.comparison import compare_runs


def make(folder: Path, file: str) -> Path:
    path = folder / file
    path.parent.mkdir()
    path.touch()
    return folder


def test_this_checkout_has_the_current_layout() -> None:
    assert layout_of(ROOT) == CURRENT


def test_layouts_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a checkout"):
        layout_of(tmp_path)
    make(tmp_path, "coordinator/cli.py")
    assert layout_of(tmp_path) == WITHOUT_ROOT
    make(tmp_path, "headrace/__init__.py")
    assert layout_of(tmp_path) == CURRENT


def test_modules_of_the_current_layout_exist() -> None:
    for module in (CURRENT.command, CURRENT.frontend, CURRENT.worker, CURRENT.fork_server):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()


def test_a_process_of_a_checkout_finds_its_code_first(tmp_path: Path) -> None:
    assert environment(tmp_path)["PYTHONPATH"] == str(tmp_path.resolve())


def test_ratios_are_medians_of_the_rounds() -> None:
    # The machine is ten times slower in the second round, for both; "new" is measured here only.
    this = [{"step": 3.0, "new": 1.0}, {"step": 20.0, "new": 1.0}, {"step": 2.0, "new": 1.0}]
    that = [{"step": 2.0}, {"step": 20.0}, {"step": 1.0}]
    (entry,) = compare_runs(this, that)
    assert (entry["name"], entry["this"], entry["that"]) == ("step", 3.0, 2.0)
    assert entry["ratios"] == [1.5, 1.0, 2.0]
    assert entry["ratio"] == 1.5


def test_a_ratio_to_zero_is_not_a_number() -> None:
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(3.0, 0.0) != ratio(3.0, 0.0)
