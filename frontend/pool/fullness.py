"""Whether the workers were all full a moment ago, so that whoever comes now need not ask them.

Only a worker knows whether it has room, but to ask it a request must be read, checked and
tokenized, which costs more than all the rest of a refusal. Under a flood that is CPU time which the
accepted ones lack. So a refusal is remembered for a moment. For each request that this frontend
sees leave the worker another one may go there; other frontends' requests end unseen, and so after
that moment somebody has to try again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headrace.frontend.pool.interface import PoolBusy
from headrace.protocol.state import READY, PoolState, WorkerState
from headrace.protocol.to_frontend import QUEUE_FULL, Refused

ALL_FULL = "all workers are at their limit; try again later"
# How long a worker that was full is taken to be so still.
REMEMBERED_S = 0.1
# How long the others wait for what becomes of the one that tries again then.
TRIAL_S = 0.02


@dataclass(slots=True)
class _Refusal:
    """until: when it counts no more. is_tried: somebody has gone to see whether it still holds.
    places: that have become free since, as far as is known, and that nobody has gone for."""

    until: float
    retry_after_s: float
    is_tried: bool = False
    places: int = 0


class Fullness:
    """What this frontend remembers of its workers' refusals."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refusals: dict[str, _Refusal] = {}
        self._ready: tuple[str, ...] = ()

    def on_workers(self, state: PoolState, workers: Iterable[WorkerState]) -> None:
        """News of the pool. What it says of loads is older than what is remembered here."""
        ready = [worker for worker in workers if worker.state == READY]
        known = {group.name for group in state.groups}
        # Requests for a group without workers are not to hear that its workers are full.
        is_whole = known <= {worker.group for worker in ready}
        self._ready = tuple(worker.worker_id for worker in ready) if is_whole else ()
        for gone in set(self._refusals) - set(self._ready):
            del self._refusals[gone]

    def on_refused(self, worker_id: str, message: Refused) -> None:
        """A worker has refused a request; it counts if it would have refused any other."""
        if message.reason == QUEUE_FULL and worker_id in self._ready:
            until = self._clock() + REMEMBERED_S
            self._refusals[worker_id] = _Refusal(until, message.retry_after_s)

    def may_have_room(self, worker_id: str) -> None:
        """A request has left this worker."""
        if worker_id in self._refusals:
            self._refusals[worker_id].places += 1

    def why_busy(self) -> PoolBusy | None:
        """What any request would fail with now, whatever its group; None if it is to be tried.

        Of those that ask when a refusal is getting old, the first is to try and the others wait for
        what becomes of it; if it is not refused, there is room.
        """
        if not self._refusals or len(self._refusals) < len(self._ready):
            return None
        for refusal in self._refusals.values():
            if refusal.places:
                refusal.places -= 1
                return None
        if self._is_tried_now():
            return None
        return PoolBusy(ALL_FULL, min(each.retry_after_s for each in self._refusals.values()))

    def _is_tried_now(self) -> bool:
        """Whether whoever asks now is to try, because a refusal has become old."""
        now = self._clock()
        old = [name for name, refusal in self._refusals.items() if refusal.until <= now]
        for name in old:
            refusal = self._refusals[name]
            if refusal.is_tried:
                del self._refusals[name]
            else:
                refusal.until, refusal.is_tried = now + TRIAL_S, True
        return bool(old)
