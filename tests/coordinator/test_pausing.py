"""Which workers are paused from their start, by a list of events."""

from dataclasses import replace
from pathlib import Path

from headrace.coordinator.pausing import PausedGroups
from headrace.protocol.calls import CallTarget, Pause, Resume
from headrace.protocol.state import READY, WorkerLoad, WorkerState
from headrace.protocol.to_coordinator import CallResult, PoolCall


def worker(name: str, is_paused: bool = False) -> WorkerState:
    group = name.rpartition("-")[0]
    return WorkerState(name, group, 1, READY, "", WorkerLoad(0, 0, 0.0, 0, 0.0), is_paused)


def pause(pausing: PausedGroups, group: str = "", worker: str = "") -> None:
    call = Pause()
    message = PoolCall(f"pause {group}", "frontend-0.0", call, CallTarget(group, worker), 5.0)
    pausing.on_pause(call, message)


def resume(pausing: PausedGroups, group: str = "") -> None:
    call = Resume()
    pausing.on_resume(call, PoolCall("r", "frontend-0.0", call, CallTarget(group), 5.0))


def paused_at_start(pausing: PausedGroups) -> list[str]:
    started = [worker("a-0.1"), worker("b-0.1")]
    return [each.group for each in started if pausing.on_started(each)]


def test_a_successor_is_paused_until_its_group_goes_on(tmp_path: Path) -> None:
    pausing = PausedGroups(["a", "b"], tmp_path / "paused.json")
    assert paused_at_start(pausing) == []
    pause(pausing)
    assert paused_at_start(pausing) == ["a", "b"]
    assert pausing.on_started(replace(worker("a-0.1"), is_paused=True)) == []
    resume(pausing, "a")
    assert paused_at_start(pausing) == ["b"]
    resume(pausing)
    assert paused_at_start(pausing) == []


def test_single_workers_and_what_failed_are_not_remembered(tmp_path: Path) -> None:
    pausing = PausedGroups(["a", "b"], tmp_path / "paused.json")
    pause(pausing, worker="a-0")
    assert paused_at_start(pausing) == []
    pause(pausing, "a")
    pausing.on_result(CallResult("other", "a-0.1", None, "failed"))
    assert paused_at_start(pausing) == ["a"]
    pausing.on_result(CallResult("pause a", "a-0.1", None, "2 requests were still running"))
    assert paused_at_start(pausing) == []


def test_a_new_coordinator_learns_it_from_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "paused.json"
    pausing = PausedGroups(["a", "b"], file)
    pause(pausing)
    resume(pausing, "b")
    assert paused_at_start(PausedGroups(["a", "b"], file)) == ["a"]
    assert paused_at_start(PausedGroups(["b"], file)) == []
    file.write_text("[1, {")
    assert paused_at_start(PausedGroups(["a", "b"], file)) == []
    gone = PausedGroups(["a"], tmp_path / "missing" / "paused.json")
    pause(gone)
    assert paused_at_start(gone) == ["a"]
