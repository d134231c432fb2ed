"""Cache entries are made once, whole or not at all."""

import threading
from pathlib import Path

import pytest

from headrace.launcher.models.model_cache import cached, default_cache_dir, file_digest
from headrace.launcher.models.model_folder import ModelError


def test_an_entry_is_made_once_and_anew_when_damaged(tmp_path: Path) -> None:
    made: list[int] = []

    def build(folder: Path) -> None:
        made.append(1)
        (folder / "weights").write_text("12345")

    entry = tmp_path / "deep" / "entry"
    for _ in range(2):
        assert (cached(entry, build, print) / "weights").read_text() == "12345"
    assert len(made) == 1
    (entry / "weights").write_text("123")
    cached(entry, build, print)
    (entry / "weights").unlink()
    cached(entry, build, print)
    (entry / "headrace.json").write_text("{")
    assert (cached(entry, build, print) / "weights").read_text() == "12345"
    assert len(made) == 4


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "weights").write_text("1")
        raise ModelError("no")

    (tmp_path / "entry.4711.tmp").mkdir()  # of a process that was killed
    with pytest.raises(ModelError, match="no"):
        cached(tmp_path / "entry", build, print)
    assert [file.name for file in tmp_path.iterdir()] == ["entry.lock"]


def test_several_at_once_build_once(tmp_path: Path) -> None:
    building, made, lines = threading.Event(), [], []

    def build(folder: Path) -> None:
        made.append(1)
        building.set()
        waiting.wait(10)
        (folder / "weights").write_text("1")

    waiting = threading.Event()

    def progress(line: str) -> None:
        lines.append(line)
        waiting.set()

    first = threading.Thread(target=cached, args=(tmp_path / "entry", build, progress))
    first.start()
    assert building.wait(10)
    cached(tmp_path / "entry", build, progress)
    first.join()
    assert len(made) == 1
    assert lines == ["waiting for another process that prepares entry"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cache folder"):
        cached(tmp_path / "file" / "entry", lambda _: None, print)


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("12")
    first = file_digest(tmp_path / "a")
    (tmp_path / "a").write_text("13")
    assert file_digest(tmp_path / "a") != first
    (tmp_path / "a").write_text("12")
    assert file_digest(tmp_path / "a") == first


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADRACE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_cache_dir() == Path("/home/somebody/.cache/headrace")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_dir() == Path("/xdg/headrace")
    monkeypatch.setenv("HEADRACE_CACHE", "/own")
    assert default_cache_dir() == Path("/own")


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADRACE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ModelError, match="HEADRACE_CACHE"):
        default_cache_dir()
    monkeypatch.setenv("HEADRACE_CACHE", "/own")
    assert default_cache_dir() == Path("/own")
