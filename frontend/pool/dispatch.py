"""Requests to workers and tokens back, without sockets: news in, injected sends out.

Each request is a Flight. It is sent to a worker; if that worker refuses it, is lost, or loses a
message, the flight goes on elsewhere with the tokens that it has. It ends exactly once.
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
from headrace.frontend.pool.rebalance import moves
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
from headrace.protocol.to_frontend import Aborted, OutputMessage, Refused, StepOutputs
from headrace.protocol.to_worker import Abort, Generate

log = logging.getLogger(__name__)

QUARANTINED = "Several workers failed while they ran this request; it is not tried again."
# A worker that dies so fast that it does not say what it has must not be fed the same for ever.
MOST_UNKNOWN_REPLAYS = 20
# How long a request whose workers are all gone waits for one to come back; longer if one starts.
STRANDED_TIMEOUT_S = 60.0

# After how long a client may try again whose request has not woken the pool in time.
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
        """wake: told the group of requests that wait while all of it sleeps, again and again; None:
        such requests fail. wake_timeout_s: how long they wait.
        reject_while_scaling: whether new requests fail while their group is being scaled.
        max_replays: of one request for failures that it may be to blame for. on_replay: told the
        group of each request that is sent again. shared: what other frontends have in flight."""
        self._send, self._on_replay = send, on_replay
        self._max_replays = max_replays
        self._wake, self._wake_timeout_s = wake, wake_timeout_s
        self._woken: set[str] = set()  # since the last news
        self._reject_while_scaling = reject_while_scaling
        self._probation = Probation()
        self._clock = clock
        self._workers: dict[str, WorkerState] = {}
        self._fullness = Fullness(clock)
        self._has_news = False  # a frontend that has just started knows of no worker yet
        self._loads = Loads(shared)
        self._expected: dict[str, int] = {}
        self._stranded: dict[Flight, float] = {}  # and since when
        self._groups: dict[str, GroupState] = {}

    @property
    def in_flight(self) -> int:
        return len(self._loads) + len(self._stranded) + len(self._probation)

    @property
    def held(self) -> dict[str, int]:
        """How many of them no worker has, by group."""
        return dict(Counter(flight.group for flight in self._stranded))

    def carried_by(self, worker_id: str) -> Collection[str]:
        """What a worker calls the requests that it has of this frontend."""
        return self._loads.carried_by(worker_id).keys()

    def generate(self, group: str, request: Generate) -> Flight:
        """A stream that sends the request when its first output is asked for."""
        return Flight(group, request, start=self._start, end=self._end)

    def why_busy(self) -> PoolBusy | None:
        """What any request would fail with now, as far as is known before it is looked at."""
        return self._fullness.why_busy()

    def beat(self) -> None:
        """Say to the other frontends that this one lives; to be called some times a second."""
        self._loads.refresh()

    def close(self) -> None:
        """This frontend ends: the others count nothing of it any more."""
        self._loads.close()

    # News of the pool

    def on_state(self, state: PoolState) -> PoolState:
        """Take the coordinator's view; returns it with what this frontend knows better.

        A restarted coordinator takes a worker that has not greeted it yet for one that starts;
        whoever has been ready stays so until it is said to drain, to be stalled or to be gone.
        """
        self._has_news = True
        self._woken.clear()
        self._groups = {group.name: group for group in state.groups}
        draining = {name for name, worker in self._workers.items() if worker.state == DRAINING}
        workers = tuple(self._merge(worker) for worker in state.workers)
        lost = set(self._workers) - {worker.worker_id for worker in workers}
        lost |= {worker.worker_id for worker in workers if worker.state == STALLED}
        self._workers = {worker.worker_id: worker for worker in workers}
        self._fullness.on_workers(state, workers)
        self._loads.on_state(state, workers)
        for worker_id in lost:
            self.on_lost(worker_id, has_failed=worker_id not in draining)
        self._resume_stranded()
        self._rebalance()
        return replace(state, workers=workers)

    def on_lost(self, worker_id: str, has_failed: bool = True) -> None:
        """A worker answers no more: its requests go on elsewhere. has_failed: it did not end in
        an orderly way, and something that ran in it may be why."""
        self._expected.pop(worker_id, None)
        flights = self._loads.remove_all(worker_id)
        if flights:
            log.warning("%s is lost: %d requests go on elsewhere", worker_id, len(flights))
        blamed = self._probation.blamed(list(flights.values())) if has_failed else ()
        for flight in flights.values():
            self._replay(flight, is_blamed=flight in blamed and flight.reached_worker)

    # Messages from workers

    def on_message(self, worker_id: str, message: OutputMessage) -> None:
        """A numbered message from a worker. A gap says that one is missing: the tokens in it
        cannot be had again, so what the worker carries is run again from what is known."""
        expected = self._expected.get(worker_id, 0)
        self._expected[worker_id] = message.number + 1
        if message.number != expected:
            self._on_gap(worker_id)
            return
        match message:
            case StepOutputs():
                self._on_outputs(worker_id, message)
            case Refused():
                flight = self._loads.remove(worker_id, message.request_id)
                self._fullness.on_refused(worker_id, message)
                if flight is not None:
                    self._on_refused(worker_id, flight, message)
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
                return  # the flights have all moved away
            flight.put(output)
            if self._probation.note(flight):
                self._next_suspect()

    def _on_aborted(self, worker_id: str, message: Aborted) -> None:
        for request_id in message.request_ids:
            flight = self._loads.remove(worker_id, request_id)
            if flight is not None:
                flight.worker_id = None
                flight.fail(PoolUnavailable(message.reason))

    def _on_refused(self, worker_id: str, flight: Flight, message: Refused) -> None:
        flight.worker_id = None
        if not message.retry_elsewhere:
            flight.fail(RequestRejected(message.reason))
            return
        flight.refused_by.add(worker_id)
        if message.retry_after_s > 0:
            flight.retry_after_s = min(flight.retry_after_s, message.retry_after_s)
        else:  # it is not full, it stops: the news of that is on its way
            flight.met_stopping = True
        self._launch(flight)

    def _on_gap(self, worker_id: str) -> None:
        log.error("a message from %s is missing", worker_id)
        flights = self._loads.remove_all(worker_id)
        if flights:
            self._send(worker_id, Abort(tuple(flights)))
        for flight in flights.values():
            self._replay(flight, is_blamed=True)

    # The way of a flight

    def _start(self, flight: Flight) -> None:
        group = self._groups.get(flight.group)
        if self._reject_while_scaling and group is not None and group.is_scaling:
            flight.fail(PoolUnavailable("the model is being scaled; try again later"))
            return
        may_wait = not self._has_news or self._is_replacing(flight.group)
        may_wait = may_wait or self._sleeps(flight.group)
        # Who has just started has the group's adapters a moment later.
        if not may_wait and not self._is_ready(flight.group):
            flight.fail(PoolUnavailable("no worker is ready to take the request"))
            return
        self._launch(flight)

    def _launch(self, flight: Flight) -> None:
        """Send a flight to the best worker that has not refused it."""
        if not self._probation.may_go(flight):
            return
        ready = self._ready(flight)
        while candidates := [each for each in ready if each.worker_id not in flight.refused_by]:
            if self._send_to(choose(candidates, flight.request), flight):
                return
        if ready and not flight.has_begun and not flight.met_stopping:
            retry_after_s = 1.0 if math.isinf(flight.retry_after_s) else flight.retry_after_s
            flight.fail(PoolBusy(ALL_FULL, retry_after_s))
        else:
            # The next news of the pool may be better, and who has refused may have room again.
            flight.refused_by.clear()
            flight.met_stopping = False
            self._stranded[flight] = self._clock()
            if self._wake is not None and self._sleeps(flight.group):
                self._ask_to_wake(self._wake, flight.group)

    def _send_to(self, worker_id: str, flight: Flight) -> bool:
        self._loads.add(worker_id, flight)  # at once: other frontends choose meanwhile
        if self._send(worker_id, flight.to_send()):
            flight.worker_id, flight.sent_at = worker_id, self._clock()
            return True
        self._loads.remove(worker_id, flight.wire_id)
        flight.refused_by.add(worker_id)
        return False

    def _rebalance(self) -> None:
        """What waits in a busy worker goes to one that has room."""
        for flight, source, target in moves(self._workers.values(), self._loads, self._clock()):
            self._loads.remove(source, flight.wire_id)
            self._send(source, Abort((flight.wire_id,)))
            flight.begin_move()
            if not self._send_to(target, flight):
                self._launch(flight)

    def _replay(self, flight: Flight, is_blamed: bool) -> None:
        flight.begin_replay()
        flight.failures += is_blamed
        is_endless = flight.replays > self._max_replays + MOST_UNKNOWN_REPLAYS
        if flight.failures > self._max_replays or is_endless:
            log.error("request %s is given up: all workers that ran it failed", flight.wire_id)
            flight.fail(RequestLost(QUARANTINED))
        else:
            self._on_replay(flight.group)
            self._launch(flight)

    def _next_suspect(self) -> None:
        flight = self._probation.next()
        if flight is not None:
            self._launch(flight)

    def _resume_stranded(self) -> None:
        """Flights that found no worker at all: one may have come back, or it has been too long."""
        stranded, self._stranded = self._stranded, {}
        for flight, since in stranded.items():
            if self._sleeps(flight.group) and self._clock() - since >= self._wake_timeout_s:
                flight.fail(
                    PoolUnavailable("no worker has been woken or started in time", RETRY_SLEEPING_S)
                )
                continue
            waits_long = self._clock() - since >= STRANDED_TIMEOUT_S
            if waits_long and not self._is_one_to_come(flight.group):
                flight.fail(PoolUnavailable("no worker has come back to go on with the request"))
                continue
            self._launch(flight)
            if flight in self._stranded:
                self._stranded[flight] = since

    def _is_one_to_come(self, group: str) -> bool:
        """Whether a worker of the group starts, and it is not one of many that have failed."""
        known = self._groups.get(group)
        if known is not None and known.problem:
            return False
        if self._is_replacing(group) or self._sleeps(group):
            return True
        return any(
            each.group == group and each.state == STARTING for each in self._workers.values()
        )

    def _ask_to_wake(self, wake: Callable[[str], None], group: str) -> None:
        """Once for all requests, and again with each news: the first time may be lost."""
        if group not in self._woken:
            self._woken.add(group)
            wake(group)

    def _sleeps(self, group: str) -> bool:
        """Whether no worker of the group is ready, and some would be if they were woken, or one
        started."""
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
            self._fullness.may_have_room(flight.worker_id)
            self._loads.remove(flight.worker_id, flight.wire_id)
            if not flight.finished:
                self._send(flight.worker_id, Abort((flight.wire_id,)))
        if self._probation.end(flight):
            self._next_suspect()

    def _is_ready(self, group: str) -> bool:
        """Whether any worker of the group is."""
        workers = self._workers.values()
        return any(each.group == group and each.state == READY for each in workers)

    def _ready(self, flight: Flight) -> list[Candidate]:
        """Those that can take a request; paused ones, in which it would wait, only if all are."""
        adapter = flight.request.adapter
        ready = [
            worker
            for worker in self._workers.values()
            if worker.group == flight.group and worker.state == READY
            if not adapter or adapter in worker.adapters
        ]
        going = [worker for worker in ready if not worker.is_paused] or ready
        return [self._loads.candidate(worker.worker_id) for worker in going]

    def _merge(self, worker: WorkerState) -> WorkerState:
        known = self._workers.get(worker.worker_id)
        if known is None or known.state != READY or worker.state != STARTING:
            return worker
        if worker.pid not in (0, known.pid):
            return worker
        return replace(worker, state=READY, endpoint=known.endpoint, pid=known.pid)
