"""What the coordinator knows of processes that systemd runs."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.coordinator.unit_processes import UnitProcesses
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.to_coordinator import ChildExited, LauncherHello

REGISTERS = """
import sys
from pathlib import Path
from headrace.protocol.common.process_registry import WORKER, ProcessRegistry
ProcessRegistry(Path(sys.argv[1])).register(WORKER, "chat-0")
print("registered", flush=True)
sys.stdin.read()
"""


def test_processes_are_not_forgotten_for_want_of_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = GroupConfig(
        name="chat", model="m", model_path=tmp_path, text_path=tmp_path, served_names=("m",)
    )
    config = PoolConfig(run_dir=tmp_path, groups=(group,))
    config.metrics_dir.mkdir()
    units = UnitProcesses(config)
    command = [sys.executable, "-c", REGISTERS, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as worker:  # type: ignore[call-overload]
        assert worker.stdout.readline() == b"registered\n"
        (hello,) = units.poll_changes()
        assert isinstance(hello, LauncherHello)
        assert hello.workers == ("chat-0.0",)

        def refused(*_: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", refused)
            assert units.poll_changes() == []
        assert units.poll_changes() == []
        worker.communicate()
    (exited,) = units.poll_changes()
    assert isinstance(exited, ChildExited)
    assert exited.process_id == "chat-0.0"
