"""The LoRA adapters of a worker: those that it starts with, and the calls that change them.

No clock and no sockets of its own.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.protocol.common.adapters import (
    ADD,
    REMOVE,
    ServedAdapter,
    adapter_folder,
    read_served,
)
from headrace.protocol.to_worker import Call
from headrace.workers.engine.engine import Engine
from headrace.workers.errors import AdapterError, ModelUnsupported
from headrace.workers.process.calls import Calls, reason
from headrace.workers.process.engine_memory import Residence
from headrace.workers.process.engine_thread import OperationDone

log = logging.getLogger(__name__)

# Requests of an adapter that is removed have ended for frontends; the worker hears of it soon.
TRY_AGAIN_S, TRIES = 0.1, 300


class WorkerAdapters:
    """ids: of those that the engine has. on_change: told when they are others."""

    def __init__(self, run_dir: Path, group: str, on_change: Callable[[], None]) -> None:
        self._run_dir, self._group, self._on_change = run_dir, group, on_change
        self.ids: tuple[str, ...] = ()
        self._reading: set[str] = set()  # being read, and not to be removed meanwhile
        self._in_use: list[tuple[float, Callable[[], None]]] = []  # what to try again, and when
        self._now = 0.0

    def add_to(self, calls: Calls) -> None:
        """Let them be changed."""
        calls.add(ADD, lambda call, told: self._add(calls, call, told["adapter_id"]))
        calls.add(REMOVE, lambda call, told: self._remove(calls, call, told["adapter_id"]))

    def turn(self, now: float) -> None:
        """To be called often."""
        self._now = now
        due = [act for when, act in self._in_use if when <= now]
        self._in_use = [each for each in self._in_use if each[0] > now]
        for act in due:
            act()

    # The start

    def load_served(self, engine: Engine) -> None:
        """Give a new engine those that the pool serves; in the engine's thread.

        ModelUnsupported for one that has come with the start and is not fit. Of others that has
        been seen when they were loaded: without them, the worker is still of use.
        """
        for served in read_served(self._run_dir):
            if served.group == self._group:
                self._load(engine, served)
        self.ids = tuple(sorted(engine.adapter_ids))

    def _load(self, engine: Engine, served: ServedAdapter) -> None:
        try:
            engine.add_adapter(served.adapter_id, self._folder(served.adapter_id))
        except AdapterError as error:
            if not served.call_id:
                raise ModelUnsupported(f"adapter {served.name}: {error}") from error
            log.error("adapter %s is missing here: %s", served.name, error)

    # Calls

    def _add(self, calls: Calls, call: Call, adapter_id: str) -> None:
        """Its files are read while the engine steps, once this knows that there is an engine."""
        folder = self._folder(adapter_id)
        self._reading.add(adapter_id)

        def read(found: OperationDone) -> None:
            engine: Engine = found.value

            def prepare() -> Any:
                try:
                    return engine.read_adapter(folder)
                except AdapterError as error:
                    return error  # it would be refused everywhere

            calls.operate_after(prepare, put, then)

        def put(residence: Residence, adapter: Any) -> tuple[str, ...] | AdapterError:
            if isinstance(adapter, AdapterError):
                return adapter
            residence.engine.put_adapter(adapter_id, adapter)
            return tuple(sorted(residence.engine.adapter_ids))

        def then(done: OperationDone) -> None:
            self._reading.discard(adapter_id)
            if isinstance(done.value, AdapterError):
                calls.answer(call, done.value.reason)
            else:
                self._end(calls, call, done)

        calls.operate(lambda residence: residence.engine, read)

    def _remove(self, calls: Calls, call: Call, adapter_id: str, tries: int = TRIES) -> None:
        def act(residence: Residence) -> tuple[str, ...] | None:
            try:
                residence.engine.remove_adapter(adapter_id)
            except AdapterError as error:
                if not tries:
                    raise
                log.debug("adapter %s is not removed yet: %s", adapter_id, error)
                return None
            return tuple(sorted(residence.engine.adapter_ids))

        def again() -> None:
            self._remove(calls, call, adapter_id, tries - 1)

        def then(done: OperationDone) -> None:
            if done.error is None and done.value is None:
                self._in_use.append((self._now + TRY_AGAIN_S, again))
            else:
                self._end(calls, call, done)

        if adapter_id in self._reading:
            self._in_use.append((self._now + TRY_AGAIN_S, again))
        else:
            calls.operate(act, then)

    def _end(self, calls: Calls, call: Call, done: OperationDone) -> None:
        if done.error is None and done.value != self.ids:
            self.ids = done.value
            self._on_change()  # before the answer: the coordinator goes on with that
        calls.answer(call, None, reason(done.error))

    def _folder(self, adapter_id: str) -> Path:
        if not adapter_id.isalnum():
            raise ValueError("no adapter's id")
        return adapter_folder(self._run_dir, adapter_id)


def with_adapters(build: Callable[[], Engine], adapters: WorkerAdapters) -> Callable[[], Engine]:
    """What builds the engine and gives it the adapters that the pool serves."""

    def build_all() -> Engine:
        engine = build()
        adapters.load_served(engine)
        return engine

    return build_all
