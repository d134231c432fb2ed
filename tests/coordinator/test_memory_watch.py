"""The log names memory where it is why a worker is slow, is killed, or has ended."""

import logging
from pathlib import Path

import pytest

from headrace.coordinator.memory_watch import AGAIN_S, MemoryWatch
from headrace.coordinator.registry import IDLE, Registry
from headrace.protocol.common.host.pressure import MemoryKills
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import READY, STARTING, WorkerLoad, WorkerState
from headrace.protocol.to_coordinator import ChildExited, LauncherHello, WorkerHello

PRESSURE = "memory pressure: high"
SLOW = WorkerLoad(running=1, waiting=0, kv_usage=0.0, steps=5, step_age_s=4.0)


class Kernel:
    """What the kernel says: a folder with its files, and pressure."""

    def __init__(self, root: Path) -> None:
        self.root, self.pressure = root, ""
        (root / "proc").mkdir()
        self.kill(0)

    def kill(self, count: int) -> None:
        (self.root / "proc/vmstat").write_text(f"oom_kill {count}\n")

    def watch(self) -> MemoryWatch:
        return MemoryWatch(lambda: self.pressure, MemoryKills(self.root))


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


@pytest.fixture
def registry(kernel: Kernel) -> Registry:
    """Of a pool with one worker, which is ready."""
    group = GroupConfig(
        name="chat", model="m", model_path=Path("/m"), text_path=Path("/t"), served_names=("m",)
    )
    config = PoolConfig(run_dir=Path("/r"), groups=(group,), stall_timeout_s=10)
    made = Registry(config, epoch="e", memory=kernel.watch())
    made.on_launcher(LauncherHello(1, (), (), ()), 0.0)
    made.tick(0.0)
    made.on_worker_hello(WorkerHello(1, "chat-0.0", "chat", 100, "ipc://a", READY), 0.0)
    return made


def test_a_worker_that_the_kernel_has_killed(
    registry: Registry, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.pressure = PRESSURE
    kernel.kill(1)
    registry.on_exit(ChildExited("chat-0.0", "worker", -9), 1.0)
    (line,) = (text for text in caplog.messages if "ended" in text)
    assert line.startswith("worker chat-0.0 ended (killed by the kernel for want of memory; ")
    assert PRESSURE in line


def test_a_worker_that_someone_else_has_killed(
    registry: Registry, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    registry.on_exit(ChildExited("chat-0.0", "worker", -9), 1.0)
    assert "worker chat-0.0 ended (killed by signal 9)" in caplog.text


@pytest.mark.parametrize("pressure", ["", PRESSURE])
def test_a_worker_that_is_killed_for_its_silence(
    registry: Registry, kernel: Kernel, pressure: str, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.pressure = pressure
    registry.tick(60.0)
    (line,) = (text for text in caplog.messages if text.startswith("killing"))
    assert line.startswith("killing chat-0.0: it was silent for 10 s")
    assert line.endswith(f"; {pressure}" if pressure else "10 s")


def test_workers_that_are_waited_for_are_named_once_a_minute(kernel: Kernel) -> None:
    watch = kernel.watch()
    starting = WorkerState("chat-0.1", "chat", 0, STARTING, "", IDLE)
    slow = WorkerState("chat-1.0", "chat", 7, READY, "", SLOW)
    fine = WorkerState("chat-2.0", "chat", 8, READY, "", IDLE)
    assert watch.warning([starting, slow, fine], 1.0) == "", "there is no pressure"
    kernel.pressure = PRESSURE
    assert watch.warning([fine], 10.0) == ""
    expected = f"waiting for chat-0.1, chat-1.0; {PRESSURE}"
    lines = [watch.warning([starting, slow, fine], 20.0 + second) for second in range(100)]
    assert lines[0] == expected
    assert lines[int(AGAIN_S)] == expected
    assert not any(lines[1 : int(AGAIN_S)])


def test_the_kernel_of_this_machine_can_be_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    watch = MemoryWatch()
    starting = WorkerState("chat-0.1", "chat", 0, STARTING, "", IDLE)
    assert watch.warning([starting], 1.0) in ("", watch.with_pressure("waiting for chat-0.1"))
    assert watch.cause_of_end(1, 1.0) == ""
