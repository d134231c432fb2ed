"""Routes admin calls to the processes that answer them, and collects the answers.

No sockets and no clock of its own, like the registry.
"""

import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from headrace.coordinator.actions import Actions, Answer
from headrace.coordinator.replica_slots import group_of, slot_of
from headrace.protocol.call_results import AnyResult, WorkerActivity
from headrace.protocol.calls import (
    ABSENT,
    MISSING,
    AdminCall,
    CallToWorkers,
    ErrorKind,
    is_for_frontends,
    is_for_workers,
)
from headrace.protocol.state import DRAINING, READY, STALLED, WorkerState
from headrace.protocol.to_coordinator import CallResult, PoolCall
from headrace.protocol.to_frontend import CallAnswer, FrontendCall, PoolResult
from headrace.protocol.to_worker import WorkerCall

# The caller of the coordinator's own calls.
OWN = "coordinator"
NO_ANSWER = "it did not answer in time"
ENDED = "it ended before it answered"

C = TypeVar("C", bound=AdminCall)


def own_call_id() -> str:
    """Return a new id for a call that the coordinator makes: a process ignores a call whose id it
    is already working on."""
    return f"{OWN}-{secrets.token_hex(8)}"


@dataclass
class _Pending:
    """A call in progress. waiting: ids of the processes that have not answered."""

    message: PoolCall
    begun_at: float
    waiting: set[str]
    answers: list[CallAnswer] = field(default_factory=list)


class CallRouter:
    """Routes calls by the processes that answer them; keeps those that are not answered yet."""

    def __init__(self) -> None:
        self._pending: dict[str, _Pending] = {}
        self._handlers: dict[type[AdminCall], Callable[[Any, PoolCall, float], Actions]] = {}
        self._observers: dict[type[AdminCall], Callable[[Any, PoolCall], None]] = {}

    def add_handler(self, kind: type[C], handler: Callable[[C, PoolCall, float], Actions]) -> None:
        """Have the coordinator answer calls of a class. It gets the call, its message, the time."""
        self._handlers[kind] = handler

    def add_observer(self, kind: type[C], observer: Callable[[C, PoolCall], None]) -> None:
        """Have `observer` see calls of a class before workers get them."""
        self._observers[kind] = observer

    @property
    def handled(self) -> frozenset[type[AdminCall]]:
        """The classes of calls that have a handler."""
        return frozenset(self._handlers)

    def on_call(
        self,
        message: PoolCall,
        now: float,
        workers: Iterable[WorkerState] = (),
        frontend_ids: Iterable[str] = (),
        slots: Collection[str] = (),
    ) -> Actions:
        """Route a call. It is not made twice, though callers repeat it when a coordinator may have
        lost it.

        workers: all of the pool. frontend_ids: of the frontends that can be reached.
        slots: the replica slots, which all are to be filled.
        """
        call = message.call
        if is_for_frontends(call):
            receivers = sorted(frontend_ids)
            if not self._begin(message, receivers, now):
                return Actions()
            sent = FrontendCall(message.call_id, call)
            return Actions(to_frontends=tuple((each, sent) for each in receivers))
        if is_for_workers(call):
            return self._call_workers(call, message, list(workers), slots, now)
        return self._handlers[type(call)](call, message, now)

    def _call_workers(
        self,
        call: CallToWorkers,
        message: PoolCall,
        workers: list[WorkerState],
        slots: Collection[str],
        now: float,
    ) -> Actions:
        observe = self._observers.get(type(call))
        if observe is not None:
            observe(call, message)
        if message.call_id in self._pending:
            return Actions()
        targets = [each for each in workers if _is_target(message, each)]
        if not targets:
            return Actions(answers=(_no_worker(message, workers, slots),))
        ids = {each.worker_id for each in targets}
        self._begin(message, ids, now)
        stay_awake = {
            each.group for each in workers if each.state == READY and each.worker_id not in ids
        }
        return Actions(
            to_workers=tuple(
                (each.worker_id, WorkerCall(message.call_id, call.for_worker(others_are_awake)))
                for each in targets
                for others_are_awake in [each.group in stay_awake]
            )
        )

    def _begin(self, message: PoolCall, receivers: Iterable[str], now: float) -> bool:
        """Expect answers to a call; false if they are expected already."""
        if message.call_id in self._pending:
            return False
        self._pending[message.call_id] = _Pending(message, now, set(receivers))
        return True

    def on_result(self, result: CallResult, now: float) -> list[Answer]:
        """Record the answer of a worker or a frontend."""
        return self._record(result.call_id, result.process_id, result.value, result.error, now)

    def on_exit(self, process_id: str, now: float, has_drained: bool = False) -> list[Answer]:
        """Record that a worker or a frontend has ended.

        has_drained: it ended after draining; its calls do not fail, its successor completes them.
        """
        answers: list[Answer] = []
        for call_id, pending in list(self._pending.items()):
            if not has_drained:
                answers += self._record(call_id, process_id, None, ENDED, now)
            elif process_id in pending.waiting:
                pending.waiting.remove(process_id)
                answers += self._end_if_answered(call_id, pending)
        return answers

    def tick(self, now: float) -> list[Answer]:
        """End calls whose time is over."""
        answers: list[Answer] = []
        for call_id, pending in list(self._pending.items()):
            answers += self._end_if_answered(call_id, pending)  # no process may have been called
            if now - pending.begun_at > pending.message.timeout_s:
                for process_id in sorted(pending.waiting):
                    answers += self._record(call_id, process_id, None, NO_ANSWER, now)
        return answers

    def _record(
        self, call_id: str, process_id: str, value: AnyResult | None, error: str, now: float
    ) -> list[Answer]:
        pending = self._pending.get(call_id)
        if pending is None or process_id not in pending.waiting:
            return []
        pending.waiting.remove(process_id)
        pending.answers.append(CallAnswer(process_id, value, error, now - pending.begun_at))
        return self._end_if_answered(call_id, pending)

    def _end_if_answered(self, call_id: str, pending: _Pending) -> list[Answer]:
        if pending.waiting:
            return []
        del self._pending[call_id]
        answers = tuple(sorted(pending.answers, key=lambda each: _order(each.process_id)))
        return [(pending.message.frontend_id, PoolResult(call_id, answers))]


def report_activity(
    message: PoolCall, workers: Iterable[WorkerState], slots: Collection[str] = ()
) -> Actions:
    """Answer GetActivity without calling workers: published states reach frontends later."""
    workers = list(workers)
    targets = [each for each in workers if _is_target(message, each)]
    if not targets:
        return Actions(answers=(_no_worker(message, workers, slots),))
    answers = tuple(
        CallAnswer(each.worker_id, WorkerActivity(each.state, each.is_paused), "", 0.0)
        for each in targets
    )
    return Actions(answers=((message.frontend_id, PoolResult(message.call_id, answers)),))


def _no_worker(message: PoolCall, workers: Iterable[WorkerState], slots: Collection[str]) -> Answer:
    """Answer a call without a target. A named worker that ends has a successor before long, and so
    has a slot that is empty."""
    name, group = message.target.worker, message.target.group
    named = [each for each in workers if _has_name(each, name) and group in ("", each.group)]
    kind: ErrorKind = ABSENT
    if not name:
        error = "no worker is running"
    elif named:
        error = "this worker is ending"
    elif name in slots and group in ("", group_of(name)):
        error = "this worker is being started again"
    else:
        error, kind = "there is no such worker", MISSING
    return message.frontend_id, PoolResult(message.call_id, (), error, kind)


def _order(process_id: str) -> tuple[str, int]:
    """Order by group, and in it by slot number: "chat-10" comes after "chat-2"."""
    group, _, number = slot_of(process_id).rpartition("-")
    return group, int(number) if number.isdecimal() else 0


def _is_target(message: PoolCall, worker: WorkerState) -> bool:
    target = message.target
    if worker.state in (DRAINING, STALLED):  # it ends; its successor learns what still holds
        return False
    if target.group and worker.group != target.group:
        return False
    return not target.worker or _has_name(worker, target.worker)


def _has_name(worker: WorkerState, name: str) -> bool:
    """Return whether a name is a worker's id or its replica slot."""
    return name in (worker.worker_id, slot_of(worker.worker_id))
