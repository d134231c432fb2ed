"""Calls to the whole pool: passed on to the workers, and what came of them put together.

No sockets and no clock of its own, as the registry.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from headrace.protocol.common.adapters import AWAIT_SHOWN, AWAIT_UNUSED
from headrace.protocol.state import DRAINING, READY, STALLED, WorkerState
from headrace.protocol.to_coordinator import CallResult, PoolCall
from headrace.protocol.to_frontend import FrontendCall, PoolResult, WorkerAnswer
from headrace.protocol.to_worker import Call

NO_ANSWER = "it did not answer in time"
# Answered without asking the workers: what is published reaches frontends a moment later.
STATE = "state"
# What frontends do, and not workers.
OF_FRONTENDS = frozenset({"abort_requests", AWAIT_SHOWN, AWAIT_UNUSED})

ENDED = "it ended before it answered"


@dataclass
class _Pending:
    """waiting: the workers that have not answered."""

    call: PoolCall
    begun_at: float
    waiting: set[str]
    answers: list[WorkerAnswer] = field(default_factory=list)


class Calls:
    """The calls that workers have not all answered yet."""

    def __init__(self) -> None:
        self._pending: dict[str, _Pending] = {}

    def on_call(
        self, call: PoolCall, workers: Iterable[WorkerState], now: float
    ) -> tuple[list[tuple[str, Call]], list[tuple[str, PoolResult]]]:
        """What is to be sent to workers, and to frontends. A call that is repeated, because a
        coordinator may have lost it, is not made twice by this one."""
        if call.call_id in self._pending:
            return [], []
        everybody = list(workers)
        meant = [each for each in everybody if _is_meant(call, each)]
        if not meant:
            error = "there is no such worker" if call.worker else "no worker is there"
            return [], [(call.frontend_id, PoolResult(call.call_id, (), error))]
        if call.method == STATE:
            told = tuple(WorkerAnswer(each.worker_id, _state(each), "", 0.0) for each in meant)
            return [], [(call.frontend_id, PoolResult(call.call_id, told))]
        chosen = {each.worker_id for each in meant}
        self._pending[call.call_id] = _Pending(call, now, set(chosen))
        stay_awake = {
            each.group for each in everybody if each.state == READY and each.worker_id not in chosen
        }
        messages = [
            (each.worker_id, Call(call.call_id, call.method, call.arguments, others))
            for each in meant
            for others in [each.group in stay_awake]
        ]
        return messages, []

    def on_frontend_call(
        self, call: PoolCall, frontend_ids: Iterable[str], now: float
    ) -> list[tuple[str, FrontendCall]]:
        """The same for a call to all frontends."""
        if call.call_id in self._pending:
            return []
        chosen = set(frontend_ids)
        self._pending[call.call_id] = _Pending(call, now, set(chosen))
        message = FrontendCall(call.call_id, call.method, call.arguments)
        return [(each, message) for each in sorted(chosen)]

    def on_result(self, result: CallResult, now: float) -> list[tuple[str, PoolResult]]:
        """A worker, or a frontend, has answered."""
        return self._take(result.call_id, result.worker_id, result.value, result.error, now)

    def on_gone(
        self, worker_id: str, now: float, has_left: bool = False
    ) -> list[tuple[str, PoolResult]]:
        """A worker, or a frontend, has ended. has_left: in good order, so that nothing of the call
        was left undone that is not its successor's."""
        results: list[tuple[str, PoolResult]] = []
        for call_id, pending in list(self._pending.items()):
            if not has_left:
                results += self._take(call_id, worker_id, "", ENDED, now)
            elif worker_id in pending.waiting:
                pending.waiting.remove(worker_id)
                results += self._end_if_answered(call_id, pending)
        return results

    def tick(self, now: float) -> list[tuple[str, PoolResult]]:
        """Time has passed."""
        results: list[tuple[str, PoolResult]] = []
        for call_id, pending in list(self._pending.items()):
            results += self._end_if_answered(call_id, pending)  # there may be nobody to be called
            if now - pending.begun_at > pending.call.timeout_s:
                for worker_id in sorted(pending.waiting):
                    results += self._take(call_id, worker_id, "", NO_ANSWER, now)
        return results

    def _take(
        self, call_id: str, worker_id: str, value: str, error: str, now: float
    ) -> list[tuple[str, PoolResult]]:
        pending = self._pending.get(call_id)
        if pending is None or worker_id not in pending.waiting:
            return []
        pending.waiting.remove(worker_id)
        pending.answers.append(WorkerAnswer(worker_id, value, error, now - pending.begun_at))
        return self._end_if_answered(call_id, pending)

    def _end_if_answered(self, call_id: str, pending: _Pending) -> list[tuple[str, PoolResult]]:
        if pending.waiting:
            return []
        del self._pending[call_id]
        answers = tuple(sorted(pending.answers, key=lambda each: _order(each.worker_id)))
        return [(pending.call.frontend_id, PoolResult(call_id, answers))]


def _state(worker: WorkerState) -> str:
    return json.dumps({"state": worker.state, "is_paused": worker.is_paused})


def _order(worker_id: str) -> tuple[str, int]:
    """By groups and in them by places, of which the tenth is not to follow the first."""
    group, _, number = worker_id.rpartition(".")[0].rpartition("-")
    return group, int(number) if number.isdecimal() else 0


def _is_meant(call: PoolCall, worker: WorkerState) -> bool:
    if worker.state in (DRAINING, STALLED):  # it ends; its successor is told what is still to hold
        return False
    if call.group and worker.group != call.group:
        return False
    place = worker.worker_id.rpartition(".")[0]
    return not call.worker or call.worker in (worker.worker_id, place)
