"""Dispatch requests to workers, without sockets: pool states and messages in, sends out.

Each request is a Flight. It is sent to a worker; if that worker rejects it or is lost, or a message
is lost, the flight continues on another worker with the tokens that it has. It ends exactly once.
"""

from collections.abc import Collection
from typing import assert_never

from headrace.frontend.pool.failover import Failover
from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.fullness import Fullness
from headrace.frontend.pool.held_flights import HeldFlights
from headrace.frontend.pool.interface import LiveLoad, PoolBusy, PoolUnavailable, RequestRejected
from headrace.frontend.pool.known_pool import KnownPool
from headrace.frontend.pool.loads import Loads
from headrace.frontend.pool.probation import Probation
from headrace.frontend.pool.sender import Sender
from headrace.protocol.state import PoolState
from headrace.protocol.to_frontend import Aborted, OutputMessage, Rejected, StepOutputs
from headrace.protocol.to_worker import BATCH_PRIORITY, EngineRequest


class Dispatch:
    """The flights of one frontend: each is carried by a worker, held, or waits for its probation.

    Its parts are made and joined by `assemble_dispatch`.
    reject_while_scaling: whether new requests fail while their group is being scaled.
    """

    def __init__(
        self,
        pool: KnownPool,
        loads: Loads,
        fullness: Fullness,
        held: HeldFlights,
        probation: Probation,
        sender: Sender,
        failover: Failover,
        reject_while_scaling: bool,
    ) -> None:
        self._pool, self._loads, self._fullness = pool, loads, fullness
        self._held, self._probation = held, probation
        self._sender, self._failover = sender, failover
        self._reject_while_scaling = reject_while_scaling
        self._expected: dict[str, int] = {}  # the number of each worker's next message

    @property
    def in_flight(self) -> int:
        return len(self._loads) + len(self._held) + len(self._probation)

    @property
    def held(self) -> dict[str, int]:
        """How many requests in flight no worker has, by group."""
        return self._held.by_group()

    def live_load(self, state: PoolState) -> LiveLoad:
        """Return the requests in flight now; see Pool.live_load."""
        return self._loads.live(state)

    def carried_by(self, worker_id: str) -> Collection[str]:
        """Return the wire ids of the requests that a worker runs for this frontend."""
        return self._loads.carried_by(worker_id).keys()

    def why_busy(self) -> PoolBusy | None:
        """Return the error that any request would fail with now; see Pool.why_busy."""
        return self._fullness.why_busy()

    def refresh(self) -> None:
        """Show other frontends that this one lives; call it some times a second."""
        self._loads.refresh()

    def close(self) -> None:
        """End: other frontends stop counting this one's requests."""
        self._loads.close()

    # Requests

    def submit(self, group: str, request: EngineRequest) -> Flight:
        """Return a stream that sends the request when its first output is awaited."""
        return Flight(group, request, start=self._begin, end=self._end)

    def _begin(self, flight: Flight) -> None:
        if self._reject_while_scaling and self._pool.is_scaling(flight.group):
            flight.fail(PoolUnavailable("the model is being scaled; try again later"))
        elif not self._pool.may_serve(flight.group):
            flight.fail(PoolUnavailable("no worker is ready to take the request"))
        else:
            self._sender.send_to_best(flight)

    def _end(self, flight: Flight) -> None:
        self._held.discard(flight)
        if flight.worker_id is not None:
            self._fullness.note_free_capacity(flight.worker_id)
            self._loads.remove(flight.worker_id, flight.wire_id)
            if not flight.finished:
                self._sender.abort(flight.worker_id, (flight.wire_id,))
        if self._probation.on_end(flight):
            self._sender.send_next_suspect()

    # State updates

    def on_state(self, state: PoolState) -> PoolState:
        """Apply a pool state; return it corrected by what this frontend knows better."""
        update = self._pool.on_state(state)
        self._held.on_state()
        self._fullness.on_state(state, update.state.workers)
        self._loads.on_state(state, update.state.workers)
        for worker_id in update.failed:
            self._on_lost(worker_id, has_failed=True)
        for worker_id in update.drained:
            self._on_lost(worker_id, has_failed=False)
        self._sender.retry_held()
        self._sender.rebalance()
        return update.state

    def _on_lost(self, worker_id: str, has_failed: bool) -> None:
        self._expected.pop(worker_id, None)
        self._failover.on_lost(worker_id, has_failed)

    # Messages from workers

    def on_message(self, worker_id: str, message: OutputMessage) -> None:
        """Handle a numbered message of a worker. After a gap, whose tokens are lost, all requests
        that the worker runs are replayed."""
        expected = self._expected.get(worker_id, 0)
        self._expected[worker_id] = message.number + 1
        if message.number != expected:
            self._failover.on_gap(worker_id)
            return
        match message:
            case StepOutputs():
                self._on_outputs(worker_id, message)
            case Rejected():
                self._on_rejected(worker_id, message)
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
                self._failover.on_gap(worker_id)
                return  # all its flights have failed over
            flight.add_output(output)
            if self._probation.on_tokens(flight):
                self._sender.send_next_suspect()

    def _on_rejected(self, worker_id: str, message: Rejected) -> None:
        flight = self._loads.remove(worker_id, message.request_id)
        # A line of a batch may be rejected where other requests are not.
        if flight is None or flight.request.priority != BATCH_PRIORITY:
            self._fullness.on_rejected(worker_id, message)
        if flight is None:
            return
        flight.worker_id = None
        if not message.retry_elsewhere:
            flight.fail(RequestRejected(message.reason))
            return
        flight.rejected_by.add(worker_id)
        if message.retry_after_s > 0:
            flight.retry_after_s = min(flight.retry_after_s, message.retry_after_s)
        else:  # it is not full but draining: the state update will follow
            flight.met_draining = True
        self._sender.send_to_best(flight)

    def _on_aborted(self, worker_id: str, message: Aborted) -> None:
        for request_id in message.request_ids:
            flight = self._loads.remove(worker_id, request_id)
            if flight is not None:
                flight.worker_id = None
                flight.fail(PoolUnavailable(message.reason))
