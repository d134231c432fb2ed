"""The LoRA adapters of a worker: those that it starts with, and the calls that change them."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol.adapters import ADD, REMOVE, ServedAdapter, adapter_folder, read_served
from protocol.to_worker import Call
from workers.calls import Calls, reason
from workers.engine import Engine
from workers.engine_thread import OperationDone
from workers.errors import AdapterError, ModelUnsupported
from workers.residence import Residence

log = logging.getLogger(__name__)


class WorkerAdapters:
    """ids: of those that the engine has. on_change: told when they are others."""

    def __init__(self, run_dir: Path, group: str, on_change: Callable[[], None]) -> None:
        self._run_dir, self._group, self._on_change = run_dir, group, on_change
        self.ids: tuple[str, ...] = ()

    def add_to(self, calls: Calls) -> None:
        """Let them be changed."""
        calls.add(ADD, lambda call, told: self._add(calls, call, told["adapter_id"]))
        calls.add(REMOVE, lambda call, told: self._remove(calls, call, told["adapter_id"]))

    def load_served(self, engine: Engine) -> None:
        """Give a new engine those that the pool serves; in the engine's thread.

        ModelUnsupported for one that has come with the start and is not fit. Of others that has
        been seen when they were loaded: without them, the worker is still of use.
        """
        for served in read_served(self._run_dir):
            if served.group == self._group:
                self._load(engine, served)
        self.ids = tuple(engine.adapter_ids)

    def _load(self, engine: Engine, served: ServedAdapter) -> None:
        try:
            engine.add_adapter(served.adapter_id, self._folder(served.adapter_id))
        except AdapterError as error:
            if not served.call_id:
                raise ModelUnsupported(f"adapter {served.name}: {error}") from error
            log.error("adapter %s is missing here: %s", served.name, error)

    def _add(self, calls: Calls, call: Call, adapter_id: str) -> None:
        folder = self._folder(adapter_id)

        def act(residence: Residence) -> tuple[str, ...] | str:
            try:
                residence.engine.add_adapter(adapter_id, folder)
            except AdapterError as error:
                return error.reason  # it would be refused everywhere
            return tuple(residence.engine.adapter_ids)

        def then(done: OperationDone) -> None:
            if isinstance(done.value, str):
                calls.answer(call, done.value)
            else:
                self._end(calls, call, done)

        calls.operate(act, then)

    def _remove(self, calls: Calls, call: Call, adapter_id: str) -> None:
        def act(residence: Residence) -> tuple[str, ...]:
            residence.engine.remove_adapter(adapter_id)
            return tuple(residence.engine.adapter_ids)

        calls.operate(act, lambda done: self._end(calls, call, done))

    def _end(self, calls: Calls, call: Call, done: OperationDone) -> None:
        if done.error is None and done.value != self.ids:
            self.ids = done.value
            self._on_change()  # before the answer: the coordinator goes on with that
        calls.answer(call, None, reason(done.error))

    def _folder(self, adapter_id: str) -> Path:
        if not adapter_id.isalnum():
            raise ValueError("no adapter's id")
        return adapter_folder(self._run_dir, adapter_id)


def with_adapters(build: Callable[[], Engine], adapters: WorkerAdapters) -> Callable[[], Any]:
    """What builds the engine and gives it the adapters that the pool serves."""

    def build_all() -> Engine:
        engine = build()
        adapters.load_served(engine)
        return engine

    return build_all
