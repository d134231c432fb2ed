"""The LoRA adapters of a worker: those that it starts with, and the calls that change them.

No clock and no sockets of its own.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.protocol.call_results import AdapterAdded, AnyResult, Done
from headrace.protocol.calls import AddAdapter, RemoveAdapter
from headrace.protocol.common.adapters import adapter_folder, read_served
from headrace.workers.engine.replica_engine import ReplicaEngine
from headrace.workers.errors import AdapterError, ModelUnsupported
from headrace.workers.process.call_handlers import CallHandlers, Reply
from headrace.workers.process.engine_memory import EngineMemory
from headrace.workers.process.engine_operations import EngineOperations
from headrace.workers.process.engine_thread import OperationDone

log = logging.getLogger("headrace.worker")

# Requests that used a removed adapter have ended in frontends; the worker will be told soon.
RETRY_S, MAX_RETRIES = 0.1, 300


class WorkerAdapters:
    """Adds adapters to the engine and removes them. on_change: called with the ids of those that
    the engine has, when a call has changed them."""

    def __init__(
        self,
        run_dir: Path,
        operations: EngineOperations,
        on_change: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._run_dir, self._operations, self._on_change = run_dir, operations, on_change
        self._ids: tuple[str, ...] = ()
        self._reading: set[str] = set()  # being read, and must not be removed meanwhile
        self._in_use: list[tuple[float, Callable[[], None]]] = []  # retries, and when they are due
        self._now = 0.0

    def add_handlers(self, handlers: CallHandlers) -> None:
        """Execute the calls that add and remove adapters."""
        handlers.add(AddAdapter, lambda call, reply: self._add(reply, call.adapter_id))
        handlers.add(RemoveAdapter, lambda call, reply: self._remove(reply, call.adapter_id))

    def on_loaded(self, ids: tuple[str, ...]) -> None:
        """Note the adapters that the engine starts with."""
        self._ids = ids

    def tick(self, now: float) -> None:
        """Try removals again; call it often."""
        self._now = now
        due = [act for when, act in self._in_use if when <= now]
        self._in_use = [each for each in self._in_use if each[0] > now]
        for act in due:
            act()

    def _add(self, reply: Reply, adapter_id: str) -> None:
        """Read an adapter's files while the engine steps, once there is an engine, and add it."""
        folder = _folder(self._run_dir, adapter_id)
        self._reading.add(adapter_id)

        def read(found: OperationDone) -> None:
            engine: ReplicaEngine = found.value

            def prepare() -> Any:
                try:
                    return engine.read_adapter(folder)
                except AdapterError as error:
                    return error  # every worker would reject it

            self._operations.operate_after(prepare, put, then)

        def put(memory: EngineMemory, adapter: Any) -> tuple[str, ...] | AdapterError:
            if isinstance(adapter, AdapterError):
                return adapter
            memory.engine.put_adapter(adapter_id, adapter)
            return tuple(sorted(memory.engine.adapter_ids))

        def then(done: OperationDone) -> None:
            self._reading.discard(adapter_id)
            if isinstance(done.value, AdapterError):
                reply(AdapterAdded(done.value.reason))
            else:
                self._end(reply, AdapterAdded(), done)

        self._operations.operate(lambda memory: memory.engine, read)

    def _remove(self, reply: Reply, adapter_id: str, tries: int = MAX_RETRIES) -> None:
        def act(memory: EngineMemory) -> tuple[str, ...] | None:
            try:
                memory.engine.remove_adapter(adapter_id)
            except AdapterError as error:
                if not tries:
                    raise
                log.debug("cannot remove adapter %s yet: %s", adapter_id, error)
                return None
            return tuple(sorted(memory.engine.adapter_ids))

        def again() -> None:
            self._remove(reply, adapter_id, tries - 1)

        def then(done: OperationDone) -> None:
            if done.error is None and done.value is None:
                self._in_use.append((self._now + RETRY_S, again))
            else:
                self._end(reply, Done(), done)

        if adapter_id in self._reading:
            self._in_use.append((self._now + RETRY_S, again))
        else:
            self._operations.operate(act, then)

    def _end(self, reply: Reply, value: AnyResult, done: OperationDone) -> None:
        if done.error is not None:
            reply.fail(done.error)
            return
        if done.value != self._ids:
            self._ids = done.value
            self._on_change(self._ids)  # before the answer, on which the coordinator continues
        reply(value)


def load_served(run_dir: Path, group: str, engine: ReplicaEngine) -> None:
    """Load the adapters of a group that the pool serves into a new engine; in the engine's thread.

    Raises ModelUnsupported if one given at the start is invalid. Others were checked when they were
    loaded: without them the worker is still useful.
    """
    for served in read_served(run_dir):
        if served.group != group:
            continue
        try:
            engine.add_adapter(served.adapter_id, _folder(run_dir, served.adapter_id))
        except AdapterError as error:
            if not served.call_id:
                raise ModelUnsupported(f"adapter {served.name}: {error}") from error
            log.error("adapter %s is missing: %s", served.name, error)


def _folder(run_dir: Path, adapter_id: str) -> Path:
    if not adapter_id.isalnum():
        raise ValueError("not an adapter id")
    return adapter_folder(run_dir, adapter_id)
