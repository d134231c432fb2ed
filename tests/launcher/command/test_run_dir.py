"""Where a pool keeps its sockets, and what killed launchers have left there."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from headrace.launcher.command import units
from headrace.launcher.command.options import OptionError
from headrace.launcher.command.run_dir import ensure_temporary_folder, make_run_dir
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
    """The lock tells which: a pid may be of another container, or another process by now."""
    made = "from headrace.launcher.command.run_dir import *; print(make_run_dir(None))"
    kill = "; import os; os.kill(os.getpid(), 9)"
    ran = subprocess.run([sys.executable, "-c", made + kill], stdout=PIPE, text=True, check=False)
    # Its number is that of a process that runs.
    dead = Path(ran.stdout.strip()).rename(runtime_dir / f"headrace-{os.getpid()}-dead")
    (dead / "metrics").mkdir()
    alive = make_run_dir(None).rename(runtime_dir / "headrace-7999999-alive")
    empty, others = runtime_dir / "headrace-7999999-empty", runtime_dir / "headrace-7999999-old"
    for folder in (empty, others):
        folder.mkdir(mode=0o700)
    (others / "pool.json").touch()  # of a version without locks, say
    shared = runtime_dir / "headrace-7999999-shared"
    shared.mkdir(mode=0o755)
    make_run_dir(None)
    left = {folder.name for folder in runtime_dir.iterdir()}
    assert not {dead.name, empty.name} & left
    assert {alive.name, others.name, shared.name} <= left


def test_many_starts_at_once_have_a_folder_each(runtime_dir: Path) -> None:
    """None removes what another has just made and not locked yet."""
    made = (
        "from headrace.launcher.command.run_dir import *; import sys\n"
        "for _ in range(40): print(make_run_dir(None))\n"
        "sys.stdout.flush(); sys.stdin.read()"
    )
    starts = [
        subprocess.Popen([sys.executable, "-c", made], stdin=PIPE, stdout=PIPE, text=True)
        for _ in range(4)
    ]
    folders = []
    for start in starts:
        assert start.stdout is not None
        folders += [Path(start.stdout.readline().strip()) for _ in range(40)]
    assert len(set(folders)) == 160
    assert all((folder / LAUNCHER_LOCK).is_file() for folder in folders)
    for start in starts:
        start.communicate()


def test_a_pool_in_another_container_is_left_alone(runtime_dir: Path) -> None:
    """They share a folder, and count their processes apart: neither sees the other's."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespace can be made here")
    made = "from headrace.launcher.command.run_dir import *; import sys; print(make_run_dir(None))"
    script = f"{made}; sys.stdout.flush(); sys.stdin.read()"
    # The first one's pid is 3 there, and the other has no process of that number.
    commands = (['true & wait; exec "$@"', "sh"], ['exec "$@"', "sh"])
    pools, folders = [], []
    for command in commands:
        pool = subprocess.Popen(
            [*unshare, *command, sys.executable, "-c", script], stdin=PIPE, stdout=PIPE, text=True
        )
        pools.append(pool)
        assert pool.stdout is not None
        folders.append(Path(pool.stdout.readline().strip()))
    assert all((folder / LAUNCHER_LOCK).is_file() for folder in folders)
    for pool in pools:
        pool.communicate()


@pytest.mark.parametrize("excess", [0, 1])
def test_paths_are_reckoned_with_the_longest_id(runtime_dir: Path, excess: int) -> None:
    """A worker's socket has its id for a name, and its restarts are counted."""
    group = "g" * 40
    length = 107 - len(f"/{group}-9999.9999999") + excess
    folder = runtime_dir / ("d" * (length - len(str(runtime_dir)) - 1))
    assert len(str(folder)) == length
    if excess:
        with pytest.raises(OptionError, match=f"^--run-dir: 1 bytes too long.*{group}") as raised:
            make_run_dir(folder, ["default", group])
        assert "\n" not in str(raised.value)
        assert not folder.exists()
        return
    make_run_dir(folder, ["default", group])
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / f"{group}-9999.9999999"))


def test_a_temporary_folder_is_passed_over_if_a_group_has_a_long_name(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = runtime_dir / ("d" * (60 - len(str(runtime_dir))))
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    fitting, long = make_run_dir(None, ["m"]), make_run_dir(None, ["m" * 40])
    assert fitting.parent == deep
    assert long.parent != deep
    shutil.rmtree(long)


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
    shutil.rmtree(made)
    with pytest.raises(OptionError, match="--run-dir"):
        make_run_dir(deep / "chosen")


def test_parents_are_the_owners_alone_whatever_the_umask(runtime_dir: Path) -> None:
    before = os.umask(0o000)
    try:
        make_run_dir(runtime_dir / "a" / "b" / "run")
    finally:
        os.umask(before)
    for folder in ("a", "a/b", "a/b/run"):
        assert stat.S_IMODE((runtime_dir / folder).stat().st_mode) == 0o700


def make_link(folder: Path) -> None:
    folder.rename(folder.with_name("real"))
    folder.symlink_to("real")


def make_file(folder: Path) -> None:
    folder.rmdir()
    folder.touch()


UNSAFE: dict[str, Callable[[Path], None]] = {
    "is a symbolic link": make_link,
    "is not a directory": make_file,
    "belongs to another user": lambda folder: os.chown(folder, 12345, 12345),
    "is open to other users": lambda folder: folder.chmod(0o770),
    "is open to other users: its mode": lambda folder: folder.chmod(0o702),
}


@pytest.mark.parametrize("reason", UNSAFE)
def test_a_folder_that_others_could_change_is_refused(runtime_dir: Path, reason: str) -> None:
    if os.geteuid() != 0 and "another user" in reason:
        pytest.skip("only root can make a folder of another user")
    folder = runtime_dir / "run"
    folder.mkdir(mode=0o700)
    UNSAFE[reason](folder)
    with pytest.raises(OptionError, match=f"--run-dir: .* exists already, and {reason}"):
        make_run_dir(folder)


def test_units_refuse_it_too(runtime_dir: Path) -> None:
    folder = runtime_dir / "run"
    folder.mkdir(mode=0o700)
    (runtime_dir / "link").symlink_to(folder)
    units.check_private(folder)
    units.check_private(runtime_dir / "link")
    folder.chmod(0o750)
    with pytest.raises(OptionError, match="is open to other users"):
        units.check_private(folder)


def test_without_a_temporary_folder_the_run_directory_has_one(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the root is read-only, and nothing is mounted at /tmp."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(runtime_dir / "none")])
    monkeypatch.setenv("TMPDIR", str(runtime_dir / "none"))
    run_dir = make_run_dir(runtime_dir / "chosen")
    ensure_temporary_folder(run_dir)
    assert os.environ["TMPDIR"] == str(run_dir / "tmp")
    assert stat.S_IMODE((run_dir / "tmp").stat().st_mode) == 0o700
    monkeypatch.undo()
    ensure_temporary_folder(run_dir)  # nothing is missing
    assert os.environ.get("TMPDIR") != str(run_dir / "tmp")
