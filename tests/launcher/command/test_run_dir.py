"""Where a pool keeps its sockets, and what killed launchers have left there."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.launcher.command.options import OptionError
from headrace.launcher.command.run_dir import make_run_dir
from headrace.protocol.common.run_files import LAUNCHER_LOCK


@pytest.fixture(autouse=True)
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path: sockets of a longer one could not be bound, and are made elsewhere."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def test_only_the_owner_may_enter(runtime_dir: Path) -> None:
    made = make_run_dir(None)
    assert made.parent == runtime_dir
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    chosen = make_run_dir(runtime_dir / "chosen")
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o700
    with pytest.raises(OptionError, match="exists"):
        make_run_dir(chosen)


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
    make_run_dir(None)
    assert not dead.exists()
    assert alive.exists()
    assert others.exists()


def test_named_folder_of_a_killed_launcher_is_taken_over(runtime_dir: Path) -> None:
    chosen = runtime_dir / "chosen"
    claim = f"from headrace.launcher.command.run_dir import *; make_run_dir(Path({str(chosen)!r}))"
    subprocess.run([sys.executable, "-c", f"{claim}; os.kill(os.getpid(), 9)"], check=False)
    (chosen / "metrics").mkdir()
    (chosen / "metrics" / "left.db").touch()
    (chosen / "pool.json").touch()
    assert make_run_dir(chosen) == chosen
    assert [file.name for file in chosen.iterdir()] == [LAUNCHER_LOCK]
    with pytest.raises(OptionError, match="exists"):  # it is in use now
        make_run_dir(chosen)


def test_folder_that_is_left_before_it_is_locked_is_taken_over(runtime_dir: Path) -> None:
    chosen = runtime_dir / "chosen"
    chosen.mkdir(mode=0o700)
    assert make_run_dir(chosen) == chosen


def test_folders_of_others_are_not_touched(runtime_dir: Path) -> None:
    notes = runtime_dir / "notes"
    notes.mkdir(mode=0o700)
    (notes / "pool.json").touch()  # what `headrace prepare` has made, say
    shared = runtime_dir / "shared"
    shared.mkdir(mode=0o755)
    link = runtime_dir / "link"
    link.symlink_to(shared)
    for folder in (notes, shared, link, notes / "pool.json"):
        with pytest.raises(OptionError, match="exists"):
            make_run_dir(folder)
    assert (notes / "pool.json").exists()


def test_folder_too_deep_for_sockets_is_passed_over(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = runtime_dir / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    made = make_run_dir(None)
    assert deep not in made.parents
    made.rmdir()
    with pytest.raises(OptionError, match="--run-dir"):
        make_run_dir(deep / "chosen")
