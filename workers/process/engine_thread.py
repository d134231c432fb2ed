"""The thread that loads the engine and steps it.

It shares only two queues and a few numbers with the messaging thread, so that a long forward pass
delays no heartbeat, and a frozen engine cannot look alive.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from headrace.protocol.pooling import Task
from headrace.protocol.state import WorkerLoad
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Abort, EngineRequest
from headrace.workers.engine.replica_engine import CacheSize, EngineStats, ReplicaEngine
from headrace.workers.errors import (
    ModelUnsupported,
    RejectedByEngine,
    may_pass,
    named_in_one_line,
)
from headrace.workers.process.engine_memory import EngineMemory

log = logging.getLogger("headrace.worker")


@dataclass(frozen=True)
class EngineReady:
    """The engine has been loaded.

    adapter_ids: of the adapters that it has. cache: the size of its K/V cache. tasks: what its
    model does.
    """

    adapter_ids: tuple[str, ...]
    cache: CacheSize
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class EngineStepped:
    """step_s: how long the step took."""

    outputs: list[Output]
    stats: EngineStats
    step_s: float


@dataclass(frozen=True)
class EngineRejected:
    """The engine has rejected a request."""

    request_id: str
    rejection: RejectedByEngine


@dataclass(frozen=True)
class EngineDied:
    """The engine has failed. hopeless: another start would fail, too."""

    reason: str
    hopeless: bool


@dataclass(frozen=True)
class OperationDone:
    """An operation has run. value: what it returned. error: what it raised; None if it did not."""

    call_id: str
    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class Operation:
    """Work for the engine's thread between two steps. It must be harmless when it fails: the engine
    continues."""

    call_id: str
    run: Callable[[EngineMemory], Any]


Event = EngineReady | EngineStepped | EngineRejected | EngineDied | OperationDone


class EngineThread(threading.Thread):
    """Commands in by `submit`, events out by `drain_events` whenever `wake_fd` is readable."""

    def __init__(self, build: Callable[[], ReplicaEngine], load_runner: Callable[[], Any]) -> None:
        super().__init__(name="engine", daemon=True)
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._build, self._load_runner = build, load_runner
        self._commands: deque[EngineRequest | Abort | Operation] = deque()
        self._arrived = threading.Event()
        self._events: deque[Event] = deque()
        self._load = WorkerLoad(running=0, waiting=0, kv_usage=0.0, steps=0, step_age_s=0.0)
        self._busy_since: float | None = None
        self._is_frozen = False
        self._around_step: Callable[[], AbstractContextManager[Any]] = nullcontext

    def submit(self, command: EngineRequest | Abort | Operation) -> None:
        """Queue a command; safe from any thread."""
        self._commands.append(command)
        self._arrived.set()

    def drain_events(self) -> list[Event]:
        """Return all events since the last call."""
        try:
            os.eventfd_read(self.wake_fd)
        except BlockingIOError:
            return []
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def last_load(self) -> WorkerLoad:
        """Return the load after the last step; safe from any thread."""
        return self._load

    def load(self) -> WorkerLoad:
        """Return the load now; safe from any thread."""
        load, since = self._load, self._busy_since
        age_s = 0.0 if since is None else time.monotonic() - since
        waiting = load.waiting + len(self._commands)
        return replace(load, waiting=waiting, step_age_s=age_s)

    # In this thread only, from operations

    def freeze(self, is_frozen: bool) -> None:
        """Make no step from now on, or make steps again."""
        self._is_frozen = is_frozen

    def surround_steps(self, around: Callable[[], AbstractContextManager[Any]]) -> None:
        """Make each step in a context manager that `around` returns."""
        self._around_step = around

    def run(self) -> None:
        engine = self._load_engine()
        if engine is None:
            return
        try:
            memory = EngineMemory(engine, self._load_runner)
            engine.on_progress = self._note_progress
            adapter_ids = tuple(sorted(engine.adapter_ids))
            self._post(EngineReady(adapter_ids, engine.cache_size, engine.tasks))
            while True:
                self._run_once(memory)
        except Exception as error:
            log.exception("the engine failed")
            self._post(EngineDied(f"{type(error).__name__}: {error}", hopeless=False))

    def _load_engine(self) -> ReplicaEngine | None:
        """Return the engine; None if it cannot be loaded, whatever the exception."""
        try:
            return self._build()
        except ModelUnsupported as error:
            self._post(EngineDied(str(error), hopeless=True))
        except Exception as error:  # libraries raise anything for a model that they cannot run
            log.debug("the model cannot be loaded", exc_info=True)
            reason = f"the model cannot be loaded: {named_in_one_line(error)}"
            self._post(EngineDied(reason, hopeless=not may_pass(error)))
        return None

    def _note_progress(self) -> None:
        """Note that the step in progress has come further: it may take long, but does not hang."""
        if self._busy_since is not None:
            self._busy_since = time.monotonic()

    def _run_once(self, memory: EngineMemory) -> None:
        """Wait for work, execute the commands, make one step."""
        engine = memory.engine
        if self._is_frozen or not engine.has_work:
            self._busy_since = None
            self._load = engine.load()
            self._arrived.wait()
        self._arrived.clear()
        started = time.monotonic()
        if self._busy_since is None:
            self._busy_since = started
        while self._commands:
            self._execute(memory, self._commands.popleft())
        if engine.has_work and not self._is_frozen:
            before = self._load.steps
            with self._around_step():
                outputs = engine.step()
            self._load = engine.load()
            ended = time.monotonic()
            # Without a step there is no progress, unless all requests wait for grammars.
            if self._load.steps > before or self._load.running == 0:
                self._busy_since = ended
            self._post(EngineStepped(outputs, engine.stats(), ended - started))

    def _execute(self, memory: EngineMemory, command: EngineRequest | Abort | Operation) -> None:
        engine = memory.engine
        if isinstance(command, Operation):
            self._operate(memory, command)
            return
        if isinstance(command, Abort):
            for request_id in command.request_ids:
                engine.abort(request_id)
            return
        try:
            engine.add(command)
        except RejectedByEngine as rejection:
            self._post(EngineRejected(command.request_id, rejection))

    def _operate(self, memory: EngineMemory, operation: Operation) -> None:
        self._busy_since = None  # however long it takes, it is not a hanging step
        try:
            done = OperationDone(operation.call_id, operation.run(memory))
        except Exception as error:
            log.exception("an operation on the engine failed")
            done = OperationDone(operation.call_id, error=error)
        self._busy_since = time.monotonic()
        self._post(done)

    def _post(self, event: Event) -> None:
        self._events.append(event)
        os.eventfd_write(self.wake_fd, 1)
