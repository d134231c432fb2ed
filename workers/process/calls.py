"""What the coordinator may have a worker do: the methods by name, and their answers.

Only what is listed here can be called. Arguments and values are JSON.
"""

import json
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from headrace.protocol.to_coordinator import CallResult
from headrace.protocol.to_worker import Call
from headrace.workers.process.engine_memory import Residence
from headrace.workers.process.engine_thread import Operation, OperationDone
from headrace.workers.process.pauser import PauseFailed
from headrace.workers.process.profiler import ProfileFailed
from headrace.workers.process.sleeper import Sleep, Sleeper, SleepFailed, Wake

log = logging.getLogger(__name__)

FAILED = "it failed; the worker's log says why"

T = TypeVar("T")
Method = Callable[[Call, dict[str, Any]], None]


class Calls:
    """submit: has the engine's thread do something. tell: sends a message to the coordinator.

    The sleeper's own operations come back here, too: it is to be made with `operate_sleep`.
    """

    def __init__(
        self,
        worker_id: str,
        submit: Callable[[Operation], None],
        tell: Callable[[CallResult], None],
    ) -> None:
        self._worker_id, self._submit, self._tell = worker_id, submit, tell
        self._operations = 0
        self._unanswered: set[str] = set()
        self._waiting: dict[str, Callable[[OperationDone], None]] = {}
        self.sleeper: Sleeper | None = None
        self._methods: dict[str, Method] = {
            "sleep": self._sleep,
            "wake_up": self._wake,
            "reset_prefix_cache": self._reset_prefix_cache,
        }

    def add(self, name: str, method: Method) -> None:
        """Let a method be called. It is to `answer` once, now or later; ValueError, TypeError and
        KeyError say that its arguments are wrong."""
        self._methods[name] = method

    def add_question(self, name: str, ask: Callable[[Residence], Any]) -> None:
        """Let something be asked that the engine's thread answers, between two steps."""

        def method(call: Call, arguments: dict[str, Any]) -> None:
            self.operate(ask, lambda done: self.answer(call, done.value, reason(done.error)))

        self._methods[name] = method

    def on_call(self, call: Call) -> None:
        """Do it; the answer is told when it is done. A new coordinator, which has been told of the
        call by who waits for it, passes it on again."""
        if call.call_id in self._unanswered:
            return
        self._unanswered.add(call.call_id)
        method = self._methods.get(call.method)
        if method is None:
            self.answer(call, error=f"there is no method {call.method[:100]!r}")
            return
        try:
            arguments = json.loads(call.arguments)
            method(call, dict(arguments))
        except (ValueError, TypeError, KeyError):
            self.answer(call, error="its arguments are none that the method takes")

    def on_done(self, done: OperationDone) -> None:
        """An operation on the engine is over."""
        self._waiting.pop(done.call_id)(done)

    def operate(
        self, act: Callable[[Residence], Any], then: Callable[[OperationDone], None]
    ) -> None:
        """Have the engine's thread do something between two steps, and be told of it."""
        self._submit(Operation(self._register(then), act))

    def _register(self, then: Callable[[OperationDone], None]) -> str:
        self._operations += 1
        name = str(self._operations)
        self._waiting[name] = then
        return name

    def operate_after(
        self,
        prepare: Callable[[], T],
        act: Callable[[Residence, T], Any],
        then: Callable[[OperationDone], None],
    ) -> None:
        """The same, after something that is done in a thread of its own, while the engine steps.
        What it raises the operation fails of."""
        name = self._register(then)

        def work() -> None:
            try:
                prepared = prepare()
            except Exception as error:
                self._submit(Operation(name, partial(_fail, error)))
            else:
                self._submit(Operation(name, lambda residence: act(residence, prepared)))

        threading.Thread(target=work, name="prepare", daemon=True).start()

    def operate_sleep(self, act: Callable[[Residence], Any]) -> None:
        """For the sleeper."""

        def then(done: OperationDone) -> None:
            assert self.sleeper is not None
            self.sleeper.on_operated(done.value)

        self.operate(act, then)

    def _sleep(self, call: Call, arguments: dict[str, Any]) -> None:
        assert self.sleeper is not None
        wanted = Sleep(**arguments, others_are_awake=call.others_are_awake)
        self.sleeper.ask(wanted, lambda error: self._answer_state(call, error))

    def _wake(self, call: Call, arguments: dict[str, Any]) -> None:
        assert self.sleeper is not None
        wanted = Wake(tags=tuple(arguments["tags"]))
        self.sleeper.ask(wanted, lambda error: self._answer_state(call, error))

    def _reset_prefix_cache(self, call: Call, arguments: dict[str, Any]) -> None:
        recompute = bool(arguments.get("recompute_running", False))

        def act(residence: Residence) -> None:
            residence.engine.reset_prefix_cache(recompute)

        self.operate(act, lambda done: self.answer(call, None, reason(done.error)))

    def _answer_state(self, call: Call, error: Exception | None) -> None:
        assert self.sleeper is not None
        self.answer(call, {"state": self.sleeper.state}, reason(error))

    def answer(self, call: Call, value: Any = None, error: str = "") -> None:
        """Say what came of a call; to be said once of each. error: fit for an operator."""
        self._unanswered.discard(call.call_id)
        self._tell(CallResult(call.call_id, self._worker_id, json.dumps(value), error))


def _fail(error: Exception, residence: Residence) -> None:
    raise error


def reason(error: Exception | None) -> str:
    """What an operator is told; paths and such stay in the log."""
    if error is None:
        return ""
    if isinstance(error, SleepFailed | PauseFailed | ProfileFailed):
        return str(error)
    return "there is not enough memory" if isinstance(error, MemoryError) else FAILED
