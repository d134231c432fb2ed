"""Places that processes take, and what others see of it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.coordinator.unit_processes import UnitProcesses
from headrace.protocol import PROTOCOL_VERSION
from headrace.protocol.common.process_registry import (
    WORKER,
    ProcessRegistry,
    RegisteredProcess,
    SlotTaken,
)
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.to_coordinator import ChildExited, LauncherHello
from headrace.protocol.to_launcher import KillWorker

# Takes a slot as a unit does: it enters, and becomes another program.
ENTER = """
import os, sys
from pathlib import Path
from headrace.protocol.common.process_registry import ProcessRegistry
name, before = ProcessRegistry(Path(sys.argv[1])).register("worker", sys.argv[2])
then = "import sys; print(sys.argv[1], flush=True); sys.stdin.read()"
os.execv(sys.executable, [sys.executable, "-c", then, name])
"""


class Process:
    def __init__(self, run_dir: Path, slot: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ENTER, str(run_dir), slot],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.name = self.process.stdout.readline().strip()
        self.member = RegisteredProcess(self.name, WORKER, self.process.pid)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def started() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.end()


@pytest.fixture
def config(tmp_path: Path) -> PoolConfig:
    group = GroupConfig(
        name="chat",
        model="m",
        model_path=Path("/m"),
        text_path=Path("/t"),
        served_names=("m",),
        workers=2,
    )
    config = PoolConfig(run_dir=tmp_path, groups=(group,))
    config.metrics_dir.mkdir()
    return config


def test_slot_is_of_one_process_for_its_life(tmp_path: Path, started: list[Process]) -> None:
    roll = ProcessRegistry(tmp_path)
    assert roll.is_empty()
    assert roll.newest_ids(WORKER) == ()
    started.append(Process(tmp_path, "chat-0"))
    assert started[0].name == "chat-0.0"
    assert roll.running(WORKER) == [started[0].member]  # also as another program
    with pytest.raises(SlotTaken):
        roll.register(WORKER, "chat-0")
    assert roll.running(WORKER) == [started[0].member]  # the refusal has changed nothing
    started[0].end()
    assert roll.is_empty()
    assert roll.newest_ids(WORKER) == ("chat-0.0",)
    started.append(Process(tmp_path, "chat-0"))
    assert started[1].name == "chat-0.1"


def test_only_the_process_in_the_slot_is_killed(tmp_path: Path, started: list[Process]) -> None:
    roll = ProcessRegistry(tmp_path)
    started += [Process(tmp_path, "chat-0"), Process(tmp_path, "chat-1")]
    first, second = started
    wrong = RegisteredProcess(first.name, WORKER, second.process.pid)
    assert not roll.kill(wrong)
    assert len(roll.running(WORKER)) == 2
    assert roll.kill(first.member)
    assert first.process.wait(5) == -signal.SIGKILL
    assert not roll.kill(first.member)
    assert roll.running(WORKER) == [second.member]


def test_registry_says_what_a_launcher_would(config: PoolConfig, started: list[Process]) -> None:
    run_dir = config.run_dir
    started.append(Process(run_dir, "chat-0"))
    roll_call = UnitProcesses(config)
    assert roll_call.poll_changes() == [
        LauncherHello(PROTOCOL_VERSION, ("chat-0.0",), (), ("chat-0.0",))
    ]
    assert roll_call.poll_changes() == []
    started.append(Process(run_dir, "chat-1"))
    ids = ("chat-0.0", "chat-1.0")
    assert roll_call.poll_changes() == [LauncherHello(PROTOCOL_VERSION, ids, (), ids)]
    (run_dir / "chat-0.0").touch()  # its socket
    roll_call.execute(KillWorker("chat-0.0"))
    started[0].process.wait(5)
    assert roll_call.poll_changes() == [ChildExited("chat-0.0", WORKER, None)]
    assert not (run_dir / "chat-0.0").exists()
    roll_call.execute(KillWorker("chat-0.0"))  # again: no harm
    assert roll_call.poll_changes() == []


def test_restarted_coordinator_sees_who_runs(config: PoolConfig, started: list[Process]) -> None:
    started += [Process(config.run_dir, "chat-0"), Process(config.run_dir, "chat-1")]
    started[0].end()
    hello = LauncherHello(PROTOCOL_VERSION, ("chat-1.0",), (), ("chat-0.0", "chat-1.0"))
    assert UnitProcesses(config).poll_changes() == [hello]
