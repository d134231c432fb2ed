"""Dispatch requests to workers, without sockets: pool states and messages in, sends out.

Each request is a Flight. It is sent to a worker; if that worker rejects it or is lost, or a message
is lost, the flight continues on another worker with the tokens that it has. It ends exactly once.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import assert_never

from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.fullness import ALL_FULL, Fullness
from headrace.frontend.pool.interface import PoolBusy, PoolUnavailable, RequestLost, RequestRejected
from headrace.frontend.pool.loads import Loads
from headrace.frontend.pool.probation import Probation
from headrace.frontend.pool.rebalance import plan_migrations
from headrace.frontend.pool.routing import Candidate, choose
from headrace.frontend.pool.shared_load import SharedLoad
from headrace.protocol.state import (
    DRAINING,
    READY,
    SLEEPING,
    STALLED,
    STARTING,
    GroupState,
    PoolState,
    WorkerState,
)
from headrace.protocol.to_frontend import Aborted, OutputMessage, Rejected, StepOutputs
from headrace.protocol.to_worker import Abort, Generate

log = logging.getLogger("headrace.frontend")

QUARANTINED = "Several workers failed while they ran this request; it is not tried again."
# Workers that die before they confirm a replay must not get the same request for ever.
MAX_UNEXPLAINED_REPLAYS = 20
# How long a request waits after all its workers are gone; longer while one starts.
STRANDED_TIMEOUT_S = 60.0

# Retry-After for requests whose group has not woken up in time.
RETRY_SLEEPING_S = 10.0

# Delivers a message to a worker; false when its queue is full.
Send = Callable[[str, Generate | Abort], bool]


class Dispatch:
    """The flights of one frontend, by request id, and the workers that carry them."""

    def __init__(
        self,
        send: Send,
        max_replays: int = 3,
        clock: Callable[[], float] = time.monotonic,
        on_replay: Callable[[str], None] = lambda group: None,
        shared: SharedLoad | None = None,
        wake: Callable[[str], None] | None = None,
        wake_timeout_s: float = 120.0,
        reject_while_scaling: bool = False,
    ) -> None:
        """max_replays: of one request, for failures that it may have caused.
        on_replay: called with the group of each request that is replayed.
        shared: the requests in flight of other frontends.
        wake: called repeatedly with a group while requests wait for it and all of it sleeps; None:
            such requests fail. wake_timeout_s: how long they wait.
        reject_while_scaling: whether new requests fail while their group is being scaled.
        """
        self._send, self._on_replay = send, on_replay
        self._max_replays = max_replays
        self._wake, self._wake_timeout_s = wake, wake_timeout_s
        self._wake_requested: set[str] = set()  # since the last pool state
        self._reject_while_scaling = reject_while_scaling
        self._probation = Probation()
        self._clock = clock
        self._workers: dict[str, WorkerState] = {}
        self._fullness = Fullness(clock)
        self._has_state = False  # false at the start: no worker is known yet
        self._loads = Loads(shared)
        self._expected: dict[str, int] = {}
        self._stranded: dict[Flight, float] = {}  # with the time since when
        self._groups: dict[str, GroupState] = {}

    @property
    def in_flight(self) -> int:
        return len(self._loads) + len(self._stranded) + len(self._probation)

    @property
    def held(self) -> dict[str, int]:
        """How many requests in flight no worker has, by group."""
        return dict(Counter(flight.group for flight in self._stranded))

    def carried_by(self, worker_id: str) -> Collection[str]:
        """Return the wire ids of the requests that a worker runs for this frontend."""
        return self._loads.carried_by(worker_id).keys()

    def generate(self, group: str, request: Generate) -> Flight:
        """Return a stream that sends the request when its first output is awaited."""
        return Flight(group, request, start=self._begin, end=self._end)

    def why_busy(self) -> PoolBusy | None:
        """Return the error that any request would fail with now; see Pool.why_busy."""
        return self._fullness.why_busy()

    def refresh(self) -> None:
        """Show other frontends that this one lives; call it some times a second."""
        self._loads.refresh()

    def close(self) -> None:
        """End: other frontends stop counting this one's requests."""
        self._loads.close()

    # State updates

    def on_state(self, state: PoolState) -> PoolState:
        """Apply a pool state; return it corrected by what this frontend knows better.

        A restarted coordinator believes that a worker which has not greeted it yet is starting; a
        worker that has been ready stays ready here until it drains, stalls or is gone.
        """
        self._has_state = True
        self._wake_requested.clear()
        self._groups = {group.name: group for group in state.groups}
        draining = {name for name, worker in self._workers.items() if worker.state == DRAINING}
        workers = tuple(self._merge(worker) for worker in state.workers)
        lost = set(self._workers) - {worker.worker_id for worker in workers}
        lost |= {worker.worker_id for worker in workers if worker.state == STALLED}
        self._workers = {worker.worker_id: worker for worker in workers}
        self._fullness.on_state(state, workers)
        self._loads.on_state(state, workers)
        for worker_id in lost:
            self.on_lost(worker_id, has_failed=worker_id not in draining)
        self._retry_stranded()
        self._rebalance()
        return replace(state, workers=workers)

    def on_lost(self, worker_id: str, has_failed: bool = True) -> None:
        """Fail over the requests of a worker that is gone. has_failed: it has not drained; one of
        its requests may be why."""
        self._expected.pop(worker_id, None)
        flights = self._loads.remove_all(worker_id)
        if flights:
            log.warning("lost %s; %d requests fail over", worker_id, len(flights))
        suspects = self._probation.suspects(list(flights.values())) if has_failed else ()
        for flight in flights.values():
            self._replay(flight, is_blamed=flight in suspects and flight.reached_worker)

    # Messages from workers

    def on_message(self, worker_id: str, message: OutputMessage) -> None:
        """Handle a numbered message of a worker. After a gap, whose tokens are lost, all requests
        that the worker runs are replayed."""
        expected = self._expected.get(worker_id, 0)
        self._expected[worker_id] = message.number + 1
        if message.number != expected:
            self._on_gap(worker_id)
            return
        match message:
            case StepOutputs():
                self._on_outputs(worker_id, message)
            case Rejected():
                flight = self._loads.remove(worker_id, message.request_id)
                self._fullness.on_rejected(worker_id, message)
                if flight is not None:
                    self._on_rejected(worker_id, flight, message)
            case Aborted():
                self._on_aborted(worker_id, message)
            case _:
                assert_never(message)

    def _on_outputs(self, worker_id: str, message: StepOutputs) -> None:
        carried = self._loads.carried_by(worker_id)
        for output in message.outputs:
            flight = carried.get(output.request_id)
            if flight is None:
                continue
            if output.position != flight.tokens_so_far:
                self._on_gap(worker_id)
                return  # all its flights have failed over
            flight.add_output(output)
            if self._probation.on_tokens(flight):
                self._send_next_suspect()

    def _on_aborted(self, worker_id: str, message: Aborted) -> None:
        for request_id in message.request_ids:
            flight = self._loads.remove(worker_id, request_id)
            if flight is not None:
                flight.worker_id = None
                flight.fail(PoolUnavailable(message.reason))

    def _on_rejected(self, worker_id: str, flight: Flight, message: Rejected) -> None:
        flight.worker_id = None
        if not message.retry_elsewhere:
            flight.fail(RequestRejected(message.reason))
            return
        flight.rejected_by.add(worker_id)
        if message.retry_after_s > 0:
            flight.retry_after_s = min(flight.retry_after_s, message.retry_after_s)
        else:  # it is not full but draining: the state update will follow
            flight.met_draining = True
        self._send_to_best(flight)

    def _on_gap(self, worker_id: str) -> None:
        log.error("a message from %s was lost; replaying its requests", worker_id)
        flights = self._loads.remove_all(worker_id)
        if flights:
            self._send(worker_id, Abort(tuple(flights)))
        for flight in flights.values():
            self._replay(flight, is_blamed=True)

    # Flights

    def _begin(self, flight: Flight) -> None:
        group = self._groups.get(flight.group)
        if self._reject_while_scaling and group is not None and group.is_scaling:
            flight.fail(PoolUnavailable("the model is being scaled; try again later"))
            return
        may_wait = not self._has_state or self._is_replacing(flight.group)
        may_wait = may_wait or self._is_asleep(flight.group)
        # A worker that has just started gets the group's adapters a moment later.
        if not may_wait and not self._is_ready(flight.group):
            flight.fail(PoolUnavailable("no worker is ready to take the request"))
            return
        self._send_to_best(flight)

    def _send_to_best(self, flight: Flight) -> None:
        """Send a flight to the best worker that has not rejected it."""
        if not self._probation.may_send(flight):
            return
        ready = self._ready(flight)
        while candidates := [each for each in ready if each.worker_id not in flight.rejected_by]:
            if self._send_to(choose(candidates, flight.request), flight):
                return
        if ready and not flight.has_begun and not flight.met_draining:
            retry_after_s = 1.0 if math.isinf(flight.retry_after_s) else flight.retry_after_s
            flight.fail(PoolBusy(ALL_FULL, retry_after_s))
        else:
            # The next pool state may be better, and workers that rejected it may have capacity.
            flight.rejected_by.clear()
            flight.met_draining = False
            self._stranded[flight] = self._clock()
            if self._wake is not None and self._is_asleep(flight.group):
                self._request_wake_up(self._wake, flight.group)

    def _send_to(self, worker_id: str, flight: Flight) -> bool:
        self._loads.add(worker_id, flight)  # before sending: other frontends choose meanwhile
        if self._send(worker_id, flight.to_request()):
            flight.worker_id, flight.sent_at = worker_id, self._clock()
            return True
        self._loads.remove(worker_id, flight.wire_id)
        flight.rejected_by.add(worker_id)
        return False

    def _rebalance(self) -> None:
        """Migrate requests that wait in a busy worker to one with capacity."""
        for flight, source, target in plan_migrations(
            self._workers.values(), self._loads, self._clock()
        ):
            self._loads.remove(source, flight.wire_id)
            self._send(source, Abort((flight.wire_id,)))
            flight.begin_migration()
            if not self._send_to(target, flight):
                self._send_to_best(flight)

    def _replay(self, flight: Flight, is_blamed: bool) -> None:
        flight.begin_failover()
        flight.failures += is_blamed
        is_endless = flight.replays > self._max_replays + MAX_UNEXPLAINED_REPLAYS
        if flight.failures > self._max_replays or is_endless:
            log.error("giving up request %s: all workers that ran it failed", flight.wire_id)
            flight.fail(RequestLost(QUARANTINED))
        else:
            self._on_replay(flight.group)
            self._send_to_best(flight)

    def _send_next_suspect(self) -> None:
        flight = self._probation.next()
        if flight is not None:
            self._send_to_best(flight)

    def _retry_stranded(self) -> None:
        """Retry flights that found no worker, or fail them if they have waited too long."""
        stranded, self._stranded = self._stranded, {}
        for flight, since in stranded.items():
            if self._is_asleep(flight.group) and self._clock() - since >= self._wake_timeout_s:
                flight.fail(
                    PoolUnavailable("no worker has been woken or started in time", RETRY_SLEEPING_S)
                )
                continue
            waits_long = self._clock() - since >= STRANDED_TIMEOUT_S
            if waits_long and not self._is_worker_coming(flight.group):
                flight.fail(PoolUnavailable("no worker has come back to go on with the request"))
                continue
            self._send_to_best(flight)
            if flight in self._stranded:
                self._stranded[flight] = since

    def _is_worker_coming(self, group: str) -> bool:
        """Return whether a worker of the group will come, unless the group is in a crash loop."""
        known = self._groups.get(group)
        if known is not None and known.problem:
            return False
        if self._is_replacing(group) or self._is_asleep(group):
            return True
        return any(
            each.group == group and each.state == STARTING for each in self._workers.values()
        )

    def _request_wake_up(self, wake: Callable[[str], None], group: str) -> None:
        """Request it once for all requests, and again with each pool state: one may be lost."""
        if group not in self._wake_requested:
            self._wake_requested.add(group)
            wake(group)

    def _is_asleep(self, group: str) -> bool:
        """Return whether no worker of the group is ready, but requests wake up or start one."""
        if self._wake is None:
            return False
        states = {each.state for each in self._workers.values() if each.group == group}
        if READY in states:
            return False
        known = self._groups.get(group)
        starts = known is not None and known.starts_on_demand and not known.problem
        return starts or not states.isdisjoint(SLEEPING)

    def _is_replacing(self, group: str) -> bool:
        return group in self._groups and self._groups[group].is_replacing

    def _end(self, flight: Flight) -> None:
        self._stranded.pop(flight, None)
        if flight.worker_id is not None:
            self._fullness.note_free_capacity(flight.worker_id)
            self._loads.remove(flight.worker_id, flight.wire_id)
            if not flight.finished:
                self._send(flight.worker_id, Abort((flight.wire_id,)))
        if self._probation.on_end(flight):
            self._send_next_suspect()

    def _is_ready(self, group: str) -> bool:
        """Return whether any worker of the group is ready."""
        workers = self._workers.values()
        return any(each.group == group and each.state == READY for each in workers)

    def _ready(self, flight: Flight) -> list[Candidate]:
        """Return the workers that can take a request; paused ones only if all are paused."""
        adapter = flight.request.adapter
        ready = [
            worker
            for worker in self._workers.values()
            if worker.group == flight.group and worker.state == READY
            if not adapter or adapter in worker.adapters
        ]
        running = [worker for worker in ready if not worker.is_paused] or ready
        return [self._loads.candidate(worker.worker_id) for worker in running]

    def _merge(self, worker: WorkerState) -> WorkerState:
        known = self._workers.get(worker.worker_id)
        if known is None or known.state != READY or worker.state != STARTING:
            return worker
        if worker.pid not in (0, known.pid):
            return worker
        return replace(worker, state=READY, endpoint=known.endpoint, pid=known.pid)
