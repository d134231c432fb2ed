"""The launcher's side of shared weights: which groups have a file, and until when."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.launcher.shared_weights import SharedWeightFiles
from headrace.protocol.common.file_lock import lock_byte
from headrace.protocol.common.shared_weights import USING, memory_file_name
from headrace.protocol.config import EngineConfig, GroupConfig


def group(name: str, **engine: Any) -> GroupConfig:
    folder = Path("/nowhere")
    return GroupConfig(
        name=name, model=name, model_path=folder, text_path=folder, served_names=(name,),
        engine=EngineConfig(**engine),
    )  # fmt: skip


@pytest.fixture
def files() -> Iterator[SharedWeightFiles]:
    made = SharedWeightFiles()
    yield made
    made.renew()


def test_each_group_that_may_compute_on_cpus_has_one(files: SharedWeightFiles) -> None:
    paths = [files.path(group("a")), files.path(group("b", device="cpu")), files.path(group("a"))]
    assert paths[0] == paths[2] != paths[1]
    assert paths[0] is not None
    assert os.readlink(paths[0]) == f"/memfd:{memory_file_name('a')} (deleted)"
    assert files.path(group("c", engine="fake")) is None
    assert files.path(group("d", device="cuda")) is None


def test_children_do_not_inherit_it(files: SharedWeightFiles) -> None:
    path = files.path(group("a"))
    assert path is not None
    assert not os.get_inheritable(int(path.name))


def test_renewed_ones_are_others_and_the_old_live_with_their_users(
    files: SharedWeightFiles,
) -> None:
    path = files.path(group("a"))
    assert path is not None
    with path.open("rb+") as used:
        used.write(b"weights")
        used.flush()
        files.renew()
        new = files.path(group("a"))
        assert new is not None
        assert not os.path.sameopenfile(used.fileno(), int(new.name))
        assert new.stat().st_size == 0
        used.seek(0)
        assert used.read() == b"weights"


def test_only_what_nobody_uses_is_emptied(files: SharedWeightFiles) -> None:
    path = files.path(group("a"))
    assert path is not None
    path.write_bytes(b"weights")
    with path.open("rb+") as used:
        lock_byte(used.fileno(), USING, shared=True)
        files.empty_unused()
        assert path.stat().st_size == len(b"weights")
    files.empty_unused()
    assert path.stat().st_size == 0
    with path.open("rb+") as used:  # it holds no lock that would keep others away
        lock_byte(used.fileno(), USING)


def test_system_without_memory_files(
    files: SharedWeightFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", fail)
    assert files.path(group("a")) is None
