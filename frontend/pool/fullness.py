"""Remember for a moment that all workers were full, to reject new requests cheaply.

Only a worker knows whether it has capacity, but asking it means to read, check and tokenize a
request, which costs more than the rest of a rejection. Under a flood, accepted requests lack that
CPU time. So a rejection is remembered for a moment. For each request that this frontend sees leave
the worker, another one may go there; other frontends' requests end unseen, so after that moment a
probe request must try again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headrace.frontend.pool.interface import PoolBusy
from headrace.protocol.state import READY, PoolState, WorkerState
from headrace.protocol.to_frontend import QUEUE_FULL, Rejected

ALL_FULL = "all workers are at their limit; try again later"
# How long a worker that was full is assumed to be full.
REJECTION_VALID_S = 0.1
# How long other requests wait for the outcome of the probe request.
PROBE_S = 0.02


@dataclass(slots=True)
class _Rejection:
    """A worker's rejection. until: when it expires. is_probed: a probe request is on its way.
    freed: requests that have left the worker since and have not been replaced."""

    until: float
    retry_after_s: float
    is_probed: bool = False
    freed: int = 0


class Fullness:
    """The recent rejections of workers that were full."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rejections: dict[str, _Rejection] = {}
        self._ready: tuple[str, ...] = ()

    def on_state(self, state: PoolState, workers: Iterable[WorkerState]) -> None:
        """Apply a pool state. Its loads are older than the rejections remembered here."""
        ready = [worker for worker in workers if worker.state == READY]
        known = {group.name for group in state.groups}
        # Requests for a group without workers must not be answered that its workers are full.
        is_whole = known <= {worker.group for worker in ready}
        self._ready = tuple(worker.worker_id for worker in ready) if is_whole else ()
        for gone in set(self._rejections) - set(self._ready):
            del self._rejections[gone]

    def on_rejected(self, worker_id: str, message: Rejected) -> None:
        """Note a rejection, if the worker would have rejected any other request as well."""
        if message.reason == QUEUE_FULL and worker_id in self._ready:
            until = self._clock() + REJECTION_VALID_S
            self._rejections[worker_id] = _Rejection(until, message.retry_after_s)

    def note_free_capacity(self, worker_id: str) -> None:
        """Note that a request has left this worker."""
        if worker_id in self._rejections:
            self._rejections[worker_id].freed += 1

    def why_busy(self) -> PoolBusy | None:
        """Return the error that any request would fail with now; None if the request must be sent.

        When a rejection expires, the first request is the probe, and the others wait for its
        outcome: if it is not rejected, there is capacity.
        """
        if not self._rejections or len(self._rejections) < len(self._ready):
            return None
        for rejection in self._rejections.values():
            if rejection.freed:
                rejection.freed -= 1
                return None
        if self._is_probe():
            return None
        return PoolBusy(ALL_FULL, min(each.retry_after_s for each in self._rejections.values()))

    def _is_probe(self) -> bool:
        """Return whether the request is the probe, because a rejection has expired."""
        now = self._clock()
        old = [name for name, rejection in self._rejections.items() if rejection.until <= now]
        for name in old:
            rejection = self._rejections[name]
            if rejection.is_probed:
                del self._rejections[name]
            else:
                rejection.until, rejection.is_probed = now + PROBE_S, True
        return bool(old)
