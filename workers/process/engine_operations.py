"""Run functions in the engine's thread, between two steps, and continue in the messaging thread."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from headrace.workers.process.engine_memory import EngineMemory
from headrace.workers.process.engine_thread import Operation, OperationDone

T = TypeVar("T")


class EngineOperations:
    """The operations on the engine that are not done yet. submit: has its thread run one."""

    def __init__(self, submit: Callable[[Operation], None]) -> None:
        self._submit = submit
        self._count = 0
        self._waiting: dict[str, Callable[[OperationDone], None]] = {}

    def on_done(self, done: OperationDone) -> None:
        """Continue what waited for an operation."""
        self._waiting.pop(done.call_id)(done)

    def operate(
        self, act: Callable[[EngineMemory], Any], then: Callable[[OperationDone], None]
    ) -> None:
        """Run `act` in the engine's thread between two steps, then `then` in this one."""
        self._submit(Operation(self._register(then), act))

    def operate_after(
        self,
        prepare: Callable[[], T],
        act: Callable[[EngineMemory, T], Any],
        then: Callable[[OperationDone], None],
    ) -> None:
        """Run `prepare` in a thread of its own, while the engine steps, and then `operate` with
        what it returns. The operation fails with what it raises."""
        name = self._register(then)

        def work() -> None:
            try:
                prepared = prepare()
            except Exception as error:
                self._submit(Operation(name, partial(_fail, error)))
            else:
                self._submit(Operation(name, lambda memory: act(memory, prepared)))

        threading.Thread(target=work, name="prepare", daemon=True).start()

    def _register(self, then: Callable[[OperationDone], None]) -> str:
        self._count += 1
        name = str(self._count)
        self._waiting[name] = then
        return name


def _fail(error: Exception, memory: EngineMemory) -> None:
    raise error
