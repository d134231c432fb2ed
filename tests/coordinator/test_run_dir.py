"""Where a pool keeps its sockets, and what killed launchers have left there."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.cli import _make_run_dir
from coordinator.options import OptionError


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_only_the_owner_may_enter(runtime_dir: Path) -> None:
    made = _make_run_dir(None)
    assert made.parent == runtime_dir
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    chosen = _make_run_dir(runtime_dir / "chosen")
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o700
    with pytest.raises(OptionError, match="exists"):
        _make_run_dir(chosen)


def test_what_dead_launchers_left_is_removed_and_the_living_are_left_alone(
    runtime_dir: Path,
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = runtime_dir / f"headrace-{ended.pid}-abc"
    alive = runtime_dir / f"headrace-{os.getpid()}-abc"
    others = runtime_dir / "headrace-notes-abc"
    for folder in (dead, alive, others):
        folder.mkdir()
    _make_run_dir(None)
    assert not dead.exists()
    assert alive.exists()
    assert others.exists()


def test_folder_too_deep_for_sockets_is_passed_over(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = runtime_dir / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    made = _make_run_dir(None)
    assert deep not in made.parents
    made.rmdir()
    with pytest.raises(OptionError, match="--run-dir"):
        _make_run_dir(deep / "chosen")
