"""A worker's side of the data path, without sockets: messages in, an injected `send` out.

It knows the frontend of each request, and numbers its messages to each frontend.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from headrace.protocol.codec import DecodeError
from headrace.protocol.state import engine_label
from headrace.protocol.to_frontend import (
    OUTPUTS,
    Aborted,
    Output,
    OutputMessage,
    Rejected,
    StepOutputs,
)
from headrace.protocol.to_worker import REQUESTS, Abort, Encode, EngineRequest, Generate
from headrace.workers.errors import RejectedByEngine
from headrace.workers.process.queue_limits import QueueGuard

log = logging.getLogger("headrace.worker")

# After so many heartbeats without other messages, a frontend has noticed every lost one.
BEATS = 5

# Delivers bytes to a frontend; false when that frontend cannot be reached.
Send = Callable[[bytes, bytes], bool]
Submit = Callable[[EngineRequest | Abort], None]


class Service:
    """Accepts requests and sends outputs.

    submit: passes a command to the engine. send: passes bytes to a frontend. guard: knows when the
    queue is full.
    """

    def __init__(self, worker_id: str, submit: Submit, send: Send, guard: QueueGuard) -> None:
        self._worker_id = worker_id
        self._engine = engine_label(worker_id)
        self._submit = submit
        self._send = send
        self._guard = guard
        self._owners: dict[str, bytes] = {}
        self._is_holding = False
        self._held: dict[str, EngineRequest] = {}
        self._numbers: defaultdict[bytes, int] = defaultdict(int)
        self._beats: dict[bytes, int] = {}
        self._rejecting: str | None = "the worker is loading its model"
        self.malformed = 0

    @property
    def in_flight(self) -> int:
        """Accepted requests that have not ended."""
        return len(self._owners)

    @property
    def running(self) -> int:
        """Requests in flight that the engine has."""
        return len(self._owners) - len(self._held)

    @property
    def held(self) -> int:
        """Requests in flight that wait here."""
        return len(self._held)

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens of requests without an output token."""
        return self._guard.waiting_tokens

    def hold(self) -> None:
        """Stop passing requests to the engine; new ones wait here."""
        self._is_holding = True

    def release(self) -> None:
        """Pass waiting requests to the engine, and from now on new ones."""
        self._is_holding = False
        held, self._held = self._held, {}
        for request in held.values():
            self._pass_on(self._owners[request.request_id], request)

    def open(self) -> None:
        """Accept requests from now on."""
        self._rejecting = None

    def close(self, reason: str = "the worker is stopping") -> None:
        """Reject new requests; those in flight continue."""
        self._rejecting = reason

    def return_all(self) -> None:
        """Return all requests in flight to their frontends, which send them to other workers."""
        for request_id, frontend in self._drop(list(self._owners)):
            self._reject(frontend, request_id, "the worker has returned it", True)

    def abort_all(self, reason: str) -> int:
        """End all requests in flight; return how many. reason: fit to be shown to clients."""
        count = self.in_flight
        self._end(list(self._owners), reason)
        return count

    def abort_running(self, reason: str) -> None:
        """End the requests that the engine has; others keep waiting."""
        self._end([each for each in self._owners if each not in self._held], reason)

    def _end(self, request_ids: list[str], reason: str) -> None:
        by_frontend: defaultdict[bytes, list[str]] = defaultdict(list)
        for request_id, frontend in self._drop(request_ids):
            by_frontend[frontend].append(request_id)
        for frontend, ended in by_frontend.items():
            number = self._next_number(frontend)
            self._deliver(frontend, Aborted(self._worker_id, number, tuple(ended), reason))

    def _drop(self, request_ids: list[str]) -> list[tuple[str, bytes]]:
        """Abort requests; return them with their frontends."""
        owners = [(each, self._owners[each]) for each in request_ids]
        self._abort(request_ids)
        return owners

    def on_message(self, frontend: bytes, data: bytes) -> None:
        """Handle a message of a frontend; malformed bytes are counted and dropped."""
        try:
            message = REQUESTS.decode(data)
        except DecodeError as error:
            self.malformed += 1
            log.warning("dropping a malformed message: %s", error)
            return
        match message:
            case Generate() | Encode():
                self._on_request(frontend, message)
            case Abort(request_ids):
                self._abort([each for each in request_ids if self._owners.get(each) == frontend])
            case _:
                assert_never(message)

    def on_outputs(self, outputs: list[Output]) -> None:
        """Send the outputs of an engine step, in one message for each frontend."""
        batches: defaultdict[bytes, list[Output]] = defaultdict(list)
        for output in outputs:
            owner = self._owners.get(output.request_id)
            if owner is None:
                continue  # aborted while the step ran
            if output.admission is not None:
                admission = replace(output.admission, engine=self._engine)
                output = replace(output, admission=admission)
            batches[owner].append(output)
            self._guard.on_first_output(output.request_id)
            if output.finish_reason is not None:
                del self._owners[output.request_id]
                self._guard.on_finished()
        for frontend, batch in batches.items():
            number = self._next_number(frontend)
            self._deliver(frontend, StepOutputs(self._worker_id, number, tuple(batch)))

    def on_rejected(self, request_id: str, rejection: RejectedByEngine) -> None:
        """Pass the engine's rejection to the frontend."""
        frontend = self._owners.pop(request_id, None)
        self._guard.on_first_output(request_id)
        if frontend is not None:
            self._reject(frontend, request_id, rejection.reason, rejection.retry_elsewhere)

    def send_heartbeats(self) -> None:
        """Send an empty message to each frontend that got one recently; call it once a second.

        A lost message shows as a gap in the numbers, so a message must follow the last one.
        """
        waiting = set(self._owners.values())
        for frontend in waiting | set(self._beats):
            left = self._beats.get(frontend, BEATS) - 1
            self._deliver(frontend, StepOutputs(self._worker_id, self._next_number(frontend), ()))
            if left > 0:
                self._beats[frontend] = left
            else:
                self._beats.pop(frontend, None)

    def forget_frontend(self, frontend: bytes) -> None:
        """Drop the requests of a frontend that has died."""
        self._numbers.pop(frontend, None)
        self._beats.pop(frontend, None)
        self._drop_requests(frontend)

    def _drop_requests(self, frontend: bytes) -> None:
        self._abort([rid for rid, owner in self._owners.items() if owner == frontend])

    def _on_request(self, frontend: bytes, request: EngineRequest) -> None:
        if self._rejecting is not None:
            self._reject(frontend, request.request_id, self._rejecting, retry_elsewhere=True)
        elif request.request_id in self._owners:
            self._reject(frontend, request.request_id, "duplicate request", retry_elsewhere=False)
        elif not request.is_replay and self._is_full(frontend, request):
            pass
        else:
            self._owners[request.request_id] = frontend
            self._guard.on_accepted(request)
            if self._is_holding:
                self._held[request.request_id] = request
            else:
                self._pass_on(frontend, request)

    def _pass_on(self, frontend: bytes, request: EngineRequest) -> None:
        self._submit(request)
        if request.is_replay:
            self._acknowledge(frontend, request)

    def _acknowledge(self, frontend: bytes, request: EngineRequest) -> None:
        """Confirm a replay. If this worker dies now, the replay may be why; a replay sent to
        a dead worker is not."""
        confirmation = Output(request.request_id, (), len(request.output_token_ids))
        number = self._next_number(frontend)
        self._deliver(frontend, StepOutputs(self._worker_id, number, (confirmation,)))

    def _is_full(self, frontend: bytes, request: EngineRequest) -> bool:
        """Reject a request if the queue is full; return whether it was rejected."""
        reason = self._guard.why_full(request, self.in_flight)
        if reason is None:
            return False
        retry_after_s = self._guard.retry_after_s(self.in_flight)
        self._reject(frontend, request.request_id, reason, True, retry_after_s)
        return True

    def _abort(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            del self._owners[request_id]
            self._guard.on_first_output(request_id)
            self._guard.on_finished()
        passed_on = [each for each in request_ids if self._held.pop(each, None) is None]
        if passed_on:
            self._submit(Abort(tuple(passed_on)))

    def _reject(
        self,
        frontend: bytes,
        request_id: str,
        reason: str,
        retry_elsewhere: bool,
        retry_after_s: float = 0.0,
    ) -> None:
        number = self._next_number(frontend)
        rejected = Rejected(
            self._worker_id, number, request_id, reason, retry_elsewhere, retry_after_s
        )
        self._deliver(frontend, rejected)

    def _next_number(self, frontend: bytes) -> int:
        number = self._numbers[frontend]
        self._numbers[frontend] = number + 1
        return number

    def _deliver(self, frontend: bytes, message: OutputMessage) -> None:
        self._beats[frontend] = BEATS
        if not self._send(frontend, OUTPUTS.encode(message)):
            # If it comes back, the gap tells it that its requests do not run here any more.
            self._drop_requests(frontend)
