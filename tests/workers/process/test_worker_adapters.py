"""A worker's adapters: added while its engine steps, removed when its requests have ended."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace.protocol.call_results import AdapterAdded, Done
from headrace.protocol.calls import AddAdapter, CallToWorkers, RemoveAdapter
from headrace.protocol.common.adapters import ServedAdapter, adapter_folder, write_served
from headrace.protocol.to_coordinator import CallResult
from headrace.protocol.to_worker import WorkerCall
from headrace.workers.engine.engine import Engine
from headrace.workers.errors import AdapterError, ModelUnsupported
from headrace.workers.process.call_handlers import CallHandlers
from headrace.workers.process.engine_operations import EngineOperations
from headrace.workers.process.engine_thread import Operation, OperationDone
from headrace.workers.process.worker_adapters import (
    MAX_RETRIES,
    RETRY_S,
    WorkerAdapters,
    load_served,
)


class FakeEngine:
    """used: adapters that its requests have. gate: what reading waits for."""

    def __init__(self) -> None:
        self.adapter_ids: set[str] = set()
        self.used: set[str] = set()
        self.gate: threading.Event | None = None

    def read_adapter(self, folder: Path) -> str:
        if self.gate is not None:
            assert self.gate.wait(10)
        if not (folder / "adapter").exists():
            raise AdapterError("no adapter is there")
        return folder.name

    def put_adapter(self, adapter_id: str, adapter: str) -> None:
        assert adapter == adapter_id
        self.adapter_ids.add(adapter_id)

    def add_adapter(self, adapter_id: str, folder: Path) -> None:
        self.put_adapter(adapter_id, self.read_adapter(folder))

    def remove_adapter(self, adapter_id: str) -> None:
        if adapter_id in self.used:
            raise AdapterError("the adapter is in use")
        self.adapter_ids.discard(adapter_id)


class Worker:
    """The messaging thread's half; `step` is what the engine's thread does between two steps."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.engine, self.now = run_dir, FakeEngine(), 0.0
        self.answers: dict[str, tuple[Any, str]] = {}
        self.shown: list[tuple[str, ...]] = []
        self._arrived = threading.Condition()
        self._submitted: list[Operation] = []
        self.operations = EngineOperations(self._submit)
        self.calls = CallHandlers("w", self.operations, self._tell)
        self.adapters = WorkerAdapters(run_dir, self.operations, self.shown.append)
        self.adapters.add_handlers(self.calls)

    def _submit(self, operation: Any) -> None:
        with self._arrived:
            self._submitted.append(operation)
            self._arrived.notify()

    def _tell(self, result: CallResult) -> None:
        self.answers[result.call_id] = (result.value, result.error)

    def folder(self, adapter_id: str) -> Path:
        folder = adapter_folder(self.run_dir, adapter_id)
        folder.mkdir(parents=True)
        (folder / "adapter").touch()
        return folder

    def call(self, call: CallToWorkers, name: str = "c") -> None:
        self.calls.on_call(WorkerCall(name, call))

    def step(self) -> None:
        """Wait for an operation, and run it."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self._submitted, 10)
            operation = self._submitted.pop(0)
        try:
            residence: Any = SimpleNamespace(engine=self.engine)
            done = OperationDone(operation.call_id, operation.run(residence))
        except Exception as error:
            done = OperationDone(operation.call_id, error=error)
        self.operations.on_done(done)

    def pass_time(self, seconds: float = RETRY_S) -> None:
        self.now += seconds
        self.adapters.tick(self.now)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def test_an_adapter_is_read_beside_the_steps_and_shown_before_the_answer(worker: Worker) -> None:
    worker.folder("1f")
    worker.engine.gate = threading.Event()
    worker.call(AddAdapter("1f"))
    worker.step()
    assert worker.answers == {}
    worker.engine.gate.set()
    worker.step()
    assert worker.shown == [("1f",)]
    assert worker.answers == {"c": (AdapterAdded(), "")}


def test_what_is_no_adapter_is_refused_in_words(worker: Worker) -> None:
    worker.call(AddAdapter("2f"))
    worker.step()
    worker.step()
    assert worker.answers == {"c": (AdapterAdded("no adapter is there"), "")}
    assert worker.shown == []


@pytest.mark.parametrize("adapter_id", ["..", "a/b", "", "1f/../2f"])
def test_ids_lead_nowhere_else(worker: Worker, adapter_id: str) -> None:
    worker.call(AddAdapter(adapter_id), "add")
    assert worker.answers["add"] == (None, "invalid arguments")
    worker.call(RemoveAdapter(adapter_id), "remove")
    worker.step()
    assert worker.answers["remove"] == (Done(), "")  # no such adapter, no folder is looked at


def test_one_in_use_is_removed_when_it_is_not(worker: Worker) -> None:
    worker.engine.adapter_ids = worker.engine.used = {"1f"}
    worker.call(RemoveAdapter("1f"))
    worker.step()
    assert worker.answers == {}
    worker.engine.used = set()
    worker.pass_time()
    worker.step()
    assert worker.engine.adapter_ids == set()
    assert worker.answers == {"c": (Done(), "")}


def test_one_that_stays_in_use_is_told_of(worker: Worker) -> None:
    worker.engine.adapter_ids = worker.engine.used = {"1f"}
    worker.call(RemoveAdapter("1f"))
    worker.step()
    for _ in range(MAX_RETRIES):
        worker.pass_time()
        worker.step()
    assert worker.answers["c"][1] != ""


def test_one_that_is_still_being_read_is_removed_afterwards(worker: Worker) -> None:
    worker.folder("1f")
    worker.engine.gate = threading.Event()
    worker.call(AddAdapter("1f"), "add")
    worker.step()
    worker.call(RemoveAdapter("1f"), "remove")
    worker.pass_time()
    worker.engine.gate.set()
    worker.step()
    assert worker.engine.adapter_ids == {"1f"}
    worker.pass_time()
    worker.step()
    assert worker.engine.adapter_ids == set()
    assert worker.shown == [("1f",), ()]
    assert set(worker.answers) == {"add", "remove"}


def served(adapter_id: str, group: str = "g", call_id: str = "") -> ServedAdapter:
    return ServedAdapter(
        group=group, name=adapter_id, adapter_id=adapter_id, root="r", call_id=call_id
    )


def test_a_worker_starts_with_those_of_its_group(worker: Worker) -> None:
    for adapter_id in ("1", "2", "3"):
        worker.folder(adapter_id)
    write_served(worker.run_dir, [served("2"), served("1"), served("3", "other")])
    load_served(worker.run_dir, "g", cast(Engine, worker.engine))
    assert worker.engine.adapter_ids == {"1", "2"}


def test_what_came_with_the_start_must_be_fit_and_what_came_later_is_missed(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    write_served(worker.run_dir, [served("1", call_id="c")])
    load_served(worker.run_dir, "g", cast(Engine, worker.engine))
    assert "missing" in caplog.text
    write_served(worker.run_dir, [served("1")])
    with pytest.raises(ModelUnsupported, match="no adapter is there"):
        load_served(worker.run_dir, "g", cast(Engine, worker.engine))


def test_a_call_that_changes_nothing_of_what_the_start_loaded_shows_nothing(worker: Worker) -> None:
    worker.adapters.on_loaded(("1f",))
    worker.engine.adapter_ids = {"1f"}
    worker.call(RemoveAdapter("2f"))
    worker.step()
    assert worker.answers == {"c": (Done(), "")}
    assert worker.shown == []
