"""The admin calls that a worker answers, by their classes.

A handler gets the call and a `Reply`, and must use that once, now or later.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from headrace.protocol.call_results import AnyResult
from headrace.protocol.calls import AdminCall
from headrace.protocol.to_coordinator import CallResult
from headrace.protocol.to_worker import WorkerCall
from headrace.workers.errors import CallFailed
from headrace.workers.process.engine_memory import EngineMemory
from headrace.workers.process.engine_operations import EngineOperations
from headrace.workers.process.engine_thread import OperationDone

log = logging.getLogger("headrace.worker")

FAILED = "it failed; the worker's log says why"

C = TypeVar("C", bound=AdminCall)


class Reply:
    """Answers one call."""

    def __init__(self, send: Callable[[AnyResult | None, str], None]) -> None:
        self._send = send

    def __call__(self, value: AnyResult) -> None:
        self._send(value, "")

    def fail(self, error: Exception) -> None:
        """Say why the call failed. Operators see no paths and such: these stay in the log."""
        self._send(None, describe(error))


class CallHandlers:
    """Executes calls. send: sends a message to the coordinator."""

    def __init__(
        self,
        worker_id: str,
        operations: EngineOperations,
        send: Callable[[CallResult], None],
    ) -> None:
        self._worker_id, self._operations, self._send = worker_id, operations, send
        self._unanswered: set[str] = set()
        self._handlers: dict[type[AdminCall], Callable[[Any, Reply], None]] = {}

    def add(self, kind: type[C], handler: Callable[[C, Reply], None]) -> None:
        """Have `handler` execute calls of a class. It raises ValueError for invalid arguments."""
        self._handlers[kind] = handler

    def add_operation(self, kind: type[C], operate: Callable[[C, EngineMemory], AnyResult]) -> None:
        """Have the engine's thread execute calls of a class, between two steps."""

        def handler(call: C, reply: Reply) -> None:
            def then(done: OperationDone) -> None:
                if done.error is None:
                    reply(done.value)
                else:
                    reply.fail(done.error)

            self._operations.operate(partial(operate, call), then)

        self._handlers[kind] = handler

    @property
    def handled(self) -> frozenset[type[AdminCall]]:
        """The classes of calls that have a handler."""
        return frozenset(self._handlers)

    def on_call(self, message: WorkerCall) -> None:
        """Execute a call. One in progress is ignored: callers repeat it to a new coordinator,
        which passes it on again."""
        call_id = message.call_id
        if call_id in self._unanswered:
            return
        self._unanswered.add(call_id)

        def send(value: AnyResult | None, error: str) -> None:
            self._unanswered.discard(call_id)
            self._send(CallResult(call_id, self._worker_id, value, error))

        try:
            self._handlers[type(message.call)](message.call, Reply(send))
        except ValueError:
            send(None, "invalid arguments")


def describe(error: Exception) -> str:
    """Return what operators see of an error; paths and such stay in the log."""
    if isinstance(error, CallFailed):
        return str(error)
    return "there is not enough memory" if isinstance(error, MemoryError) else FAILED
