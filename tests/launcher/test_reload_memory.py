"""Whether a successor has room beside a worker."""

import os
from pathlib import Path

import pytest

from headrace.launcher.reload_memory import (
    lacks_gpu_memory,
    lacks_memory,
    own_bytes,
    peak_bytes,
    why_no_room,
)
from headrace.protocol.common.host.limits import Limit
from headrace.protocol.config import EngineConfig, GroupConfig

MIB = 2**20


def group(**engine: object) -> GroupConfig:
    return GroupConfig(
        name="chat",
        model="m",
        model_path=Path("/m"),
        text_path=Path("/t"),
        served_names=("m",),
        engine=EngineConfig.model_validate(engine),
    )


def test_successor_needs_what_the_worker_has_needed_at_most() -> None:
    assert lacks_memory(1000 * MIB, Limit(1101 * MIB, "x")) == ""
    reason = lacks_memory(1000 * MIB, Limit(1099 * MIB, "/sys/fs/cgroup/memory.max"))
    assert reason == "another one may need 1100 MiB, and 1099 are free"
    assert lacks_memory(None, Limit(1099 * MIB, "x")) == "its memory cannot be read"


def test_successor_takes_its_share_of_the_gpu() -> None:
    assert lacks_gpu_memory((46_000, 100_000), 0.45) == ""
    assert "45000 MiB" in lacks_gpu_memory((44_000, 100_000), 0.45)
    assert "cannot be read" in lacks_gpu_memory(None, 0.45)


def test_peak_is_read_from_the_kernel(tmp_path: Path) -> None:
    own = peak_bytes(os.getpid())
    assert own is not None
    assert own > MIB
    (tmp_path / "7").mkdir()
    (tmp_path / "7/status").write_text("VmPeak:\t 900 kB\nVmHWM:\t 500 kB\nRssAnon:\t 300 kB\n")
    assert peak_bytes(7, tmp_path) == 500 * 1024
    assert own_bytes(7, tmp_path) == 300 * 1024
    assert peak_bytes(8, tmp_path) is None
    assert own_bytes(8, tmp_path) == 0


@pytest.mark.parametrize(
    ("engine", "gpu"),
    [({"engine": "fake"}, "0"), ({"device": "cpu"}, "0"), ({}, "")],
)
async def test_gpu_does_not_matter_to_workers_on_cpus(engine: dict[str, object], gpu: str) -> None:
    assert await why_no_room(os.getpid(), group(**engine), gpu) == ""


async def test_gpu_that_cannot_be_asked_has_no_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "cannot be read" in await why_no_room(os.getpid(), group(), "0")


async def test_gpu_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = --id=3 ] && echo "100, 1000"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "900 MiB" in await why_no_room(os.getpid(), group(memory_utilization=0.9), "3")
    assert await why_no_room(os.getpid(), group(memory_utilization=0.1), "3") == ""
