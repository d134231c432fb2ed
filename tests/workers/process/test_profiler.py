"""When a profile is made and where it is written, with a recorder that records nothing."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from headrace.protocol.call_results import ProfileStarted, ProfileStopped
from headrace.protocol.calls import CallToWorkers, StartProfile, StopProfile
from headrace.protocol.to_coordinator import CallResult
from headrace.protocol.to_worker import WorkerCall
from headrace.workers.process.call_handlers import CallHandlers
from headrace.workers.process.engine_operations import EngineOperations
from headrace.workers.process.engine_thread import Operation, OperationDone
from headrace.workers.process.profiler import Profiler, Profiling, start_stacks

Begin = Callable[[], tuple["Recorder", Callable[[], Any]]]


class Recorder:
    """broken: what writing fails of."""

    suffix = ".json"

    def __init__(self) -> None:
        self.running = False
        self.broken: OSError | None = None

    def begin(self) -> tuple["Recorder", Callable[[], Any]]:
        self.running = True
        return self, lambda: nullcontext("marked")

    def stop(self) -> None:
        self.running = False

    def export(self, path: str) -> None:
        if self.broken:
            raise self.broken
        Path(path).write_text("{}")


class Desk:
    """Calls to a worker whose engine's thread does at once what it is asked to."""

    def __init__(self, folder: Path | None, **options: Any) -> None:
        self.recorder = Recorder()
        self.told: list[CallResult] = []
        self.around: Callable[[], Any] = nullcontext
        self.operations = EngineOperations(self._operate)
        self.calls = CallHandlers("w-0.1", self.operations, self.told.append)
        begin = options.pop("begin", {"torch": self.recorder.begin, "stacks": start_stacks})
        profiler = Profiler(folder, "w-0.1", self._mark, begin)
        self.profiling = Profiling(self.operations, profiler, max_s=60.0)
        self.profiling.add_handlers(self.calls)

    def is_recording(self) -> bool:
        return self.recorder.running

    def _mark(self, around: Callable[[], Any]) -> None:
        self.around = around

    def _operate(self, operation: Operation) -> None:
        try:
            done = OperationDone(operation.call_id, operation.run(cast(Any, None)))
        except Exception as error:
            done = OperationDone(operation.call_id, error=error)
        self.operations.on_done(done)

    def call(self, call: CallToWorkers) -> CallResult:
        self.calls.on_call(WorkerCall("c", call))
        return self.told.pop()


def test_each_profile_is_a_file_of_its_own(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "new" / "folder")
    for count in (1, 2, 3):
        assert desk.call(StartProfile()).value == ProfileStarted(True)
        assert desk.call(StartProfile()).value == ProfileStarted(False)
        assert desk.around().enter_result == "marked"
        assert desk.call(StopProfile()).error == ""
        assert desk.call(StopProfile()).value == ProfileStopped(None)
        assert desk.around is nullcontext
        names = [path.name for path in (tmp_path / "new" / "folder").iterdir()]
        assert len(names) == count
        assert all(name.startswith("w-0.1-") and name.endswith(".json") for name in names)


def test_a_forgotten_profile_ends(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.profiling.tick(100.0)
    desk.call(StartProfile())
    desk.profiling.tick(159.9)
    assert desk.is_recording()
    desk.profiling.tick(160.0)
    assert not desk.is_recording()
    assert len(list(tmp_path.iterdir())) == 1
    desk.call(StartProfile())
    desk.call(StopProfile())
    desk.call(StartProfile())
    desk.profiling.tick(219.9)
    assert desk.is_recording()  # the time of the one before does not count


@pytest.mark.parametrize(("folder", "begin"), [(None, {"torch": Recorder().begin}), ("x", {})])
def test_what_cannot_be_profiled_says_why(
    tmp_path: Path, folder: str | None, begin: dict[str, Begin]
) -> None:
    desk = Desk(tmp_path / folder if folder else None, begin=begin)
    assert "profile" in desk.call(StartProfile()).error
    assert desk.call(StopProfile()).error == ""


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    desk = Desk(tmp_path / "file" / "folder")
    error = desk.call(StartProfile()).error
    assert "folder" in error
    assert str(tmp_path) not in error
    desk = Desk(tmp_path / "full")
    desk.recorder.broken = OSError("disk full")
    desk.call(StartProfile())
    assert "could not be written" in desk.call(StopProfile()).error
    assert list((tmp_path / "full").iterdir()) == []
    assert desk.call(StartProfile()).error == ""


def test_stacks_of_all_threads(tmp_path: Path) -> None:
    over = threading.Event()

    def busy_with_waiting() -> None:
        over.wait(30)

    thread = threading.Thread(target=busy_with_waiting, name="somebody; else")
    thread.start()
    desk = Desk(tmp_path)
    desk.call(StartProfile("stacks"))
    try:
        while not any("busy_with_waiting" in line for line in sampled(desk)):
            over.wait(0.02)
    finally:
        over.set()
        thread.join()
    stopped = desk.call(StopProfile()).value
    assert isinstance(stopped, ProfileStopped)
    name = stopped.trace
    assert name is not None
    assert name.endswith(".folded")
    lines = (tmp_path / name).read_text().splitlines()
    (line,) = [each for each in lines if "busy_with_waiting" in each][:1]
    frames, _, count = line.rpartition(" ")
    assert int(count) > 0
    assert frames.split(";")[-1].startswith("Condition.wait (threading.py:")
    assert str(tmp_path.parent) not in "".join(lines)


def sampled(desk: Desk) -> list[str]:
    recording: Any = desk.profiling._profiler._recording
    return [";".join(stack) for stack in list(recording._stacks)]
