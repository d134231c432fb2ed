"""Which workers are paused from their start, by a list of events."""

from dataclasses import replace
from pathlib import Path

from headrace.coordinator.pausing import PAUSE, RESUME, Pausing
from headrace.protocol.state import READY, WorkerLoad, WorkerState
from headrace.protocol.to_coordinator import CallResult, PoolCall


def worker(name: str, is_paused: bool = False) -> WorkerState:
    group = name.rpartition("-")[0]
    return WorkerState(name, group, 1, READY, "", WorkerLoad(0, 0, 0.0, 0, 0.0), is_paused)


def call(method: str, group: str = "", place: str = "") -> PoolCall:
    return PoolCall(f"{method}{group}{place}", "frontend-0.0", method, "{}", group, place, 5.0)


def paused_at_start(pausing: Pausing) -> list[str]:
    started = [worker("a-0.1"), worker("b-0.1")]
    return [each.group for each in started if pausing.on_started(each)]


def test_a_successor_is_paused_until_its_group_goes_on(tmp_path: Path) -> None:
    pausing = Pausing(["a", "b"], tmp_path / "paused.json")
    assert paused_at_start(pausing) == []
    pausing.on_call(call(PAUSE))
    assert paused_at_start(pausing) == ["a", "b"]
    assert pausing.on_started(replace(worker("a-0.1"), is_paused=True)) == []
    pausing.on_call(call(RESUME, "a"))
    assert paused_at_start(pausing) == ["b"]
    pausing.on_call(call("sleep"))
    pausing.on_call(call(RESUME))
    assert paused_at_start(pausing) == []


def test_single_workers_and_what_failed_are_not_remembered(tmp_path: Path) -> None:
    pausing = Pausing(["a", "b"], tmp_path / "paused.json")
    pausing.on_call(call(PAUSE, place="a-0"))
    assert paused_at_start(pausing) == []
    pausing.on_call(call(PAUSE, "a"))
    pausing.on_result(CallResult("other", "a-0.1", "", "failed"))
    assert paused_at_start(pausing) == ["a"]
    pausing.on_result(CallResult("pausea", "a-0.1", "", "2 requests were still running"))
    assert paused_at_start(pausing) == []


def test_a_new_coordinator_learns_it_from_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "paused.json"
    pausing = Pausing(["a", "b"], file)
    pausing.on_call(call(PAUSE))
    pausing.on_call(call(RESUME, "b"))
    assert paused_at_start(Pausing(["a", "b"], file)) == ["a"]
    assert paused_at_start(Pausing(["b"], file)) == []
    file.write_text("[1, {")
    assert paused_at_start(Pausing(["a", "b"], file)) == []
    gone = Pausing(["a"], tmp_path / "missing" / "paused.json")
    gone.on_call(call(PAUSE))
    assert paused_at_start(gone) == ["a"]
