"""A worker's side of the data path, without sockets: messages in, an injected `send` out.

It knows whose each request is, and numbers what it sends to each frontend.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import assert_never

from headrace.protocol.codec import DecodeError
from headrace.protocol.to_frontend import (
    OUTPUTS,
    Aborted,
    Output,
    OutputMessage,
    Refused,
    StepOutputs,
)
from headrace.protocol.to_worker import REQUESTS, Abort, Generate
from headrace.workers.errors import RequestRefused
from headrace.workers.process.queue_limits import QueueGuard

log = logging.getLogger(__name__)

# After so many beats without anything else to send, a frontend has heard of all there was.
BEATS = 5

# Delivers bytes to a frontend; false when that frontend cannot be reached.
Send = Callable[[bytes, bytes], bool]
Submit = Callable[[Generate | Abort], None]


class Service:
    """submit: passes a command to the engine. send: passes bytes to a frontend. guard: knows when
    the queue is full."""

    def __init__(self, worker_id: str, submit: Submit, send: Send, guard: QueueGuard) -> None:
        self._worker_id = worker_id
        self._submit = submit
        self._send = send
        self._guard = guard
        self._owners: dict[str, bytes] = {}
        self._is_holding = False
        self._held: dict[str, Generate] = {}
        self._numbers: defaultdict[bytes, int] = defaultdict(int)
        self._beats: dict[bytes, int] = {}
        self._refusing: str | None = "the worker is loading its model"
        self.malformed = 0

    @property
    def in_flight(self) -> int:
        """Requests that have been taken and not been ended."""
        return len(self._owners)

    @property
    def running(self) -> int:
        """Those of them that the engine has got."""
        return len(self._owners) - len(self._held)

    @property
    def held(self) -> int:
        """Those of them that it is still to get."""
        return len(self._held)

    @property
    def waiting_tokens(self) -> int:
        """Of the prompts of those that have had no token yet."""
        return self._guard.waiting_tokens

    def hold(self) -> None:
        """Give the engine no more requests; those that come wait here."""
        self._is_holding = True

    def let_go(self) -> None:
        """Give it all that wait, and from now on those that come."""
        self._is_holding = False
        held, self._held = self._held, {}
        for request in held.values():
            self._pass_on(self._owners[request.request_id], request)

    def open(self) -> None:
        """Take requests from now on."""
        self._refusing = None

    def close(self, reason: str = "the worker is stopping") -> None:
        """Refuse new requests; those in flight go on."""
        self._refusing = reason

    def hand_back(self) -> None:
        """Run nothing of what is in flight any more: frontends are to have it run elsewhere."""
        for request_id, frontend in self._forget(list(self._owners)):
            self._refuse(frontend, request_id, "the worker has handed it back", True)

    def abort_all(self, reason: str) -> int:
        """End what is in flight; how much that was. reason: fit to be shown to clients."""
        count = self.in_flight
        self._end(list(self._owners), reason)
        return count

    def abort_running(self, reason: str) -> None:
        """End what the engine has got; what waits goes on waiting."""
        self._end([each for each in self._owners if each not in self._held], reason)

    def _end(self, request_ids: list[str], reason: str) -> None:
        by_frontend: defaultdict[bytes, list[str]] = defaultdict(list)
        for request_id, frontend in self._forget(request_ids):
            by_frontend[frontend].append(request_id)
        for frontend, ended in by_frontend.items():
            number = self._next_number(frontend)
            self._deliver(frontend, Aborted(self._worker_id, number, tuple(ended), reason))

    def _forget(self, request_ids: list[str]) -> list[tuple[str, bytes]]:
        """Requests in flight and whose they are; they are no more."""
        owners = [(each, self._owners[each]) for each in request_ids]
        self._abort(request_ids)
        return owners

    def on_message(self, frontend: bytes, data: bytes) -> None:
        """Bytes from a frontend; what is no message is counted and dropped."""
        try:
            message = REQUESTS.decode(data)
        except DecodeError as error:
            self.malformed += 1
            log.warning("dropped a malformed message: %s", error)
            return
        match message:
            case Generate():
                self._on_generate(frontend, message)
            case Abort(request_ids):
                self._abort([each for each in request_ids if self._owners.get(each) == frontend])
            case _:
                assert_never(message)

    def on_outputs(self, outputs: list[Output]) -> None:
        """The outputs of an engine step: one message for each frontend that has some."""
        batches: defaultdict[bytes, list[Output]] = defaultdict(list)
        for output in outputs:
            owner = self._owners.get(output.request_id)
            if owner is None:
                continue  # aborted while the step ran
            batches[owner].append(output)
            self._guard.answered(output.request_id)
            if output.finish_reason is not None:
                del self._owners[output.request_id]
                self._guard.ended()
        for frontend, batch in batches.items():
            number = self._next_number(frontend)
            self._deliver(frontend, StepOutputs(self._worker_id, number, tuple(batch)))

    def on_refused(self, request_id: str, refusal: RequestRefused) -> None:
        """The engine does not take a request."""
        frontend = self._owners.pop(request_id, None)
        self._guard.answered(request_id)
        if frontend is not None:
            self._refuse(frontend, request_id, refusal.reason, refusal.retry_elsewhere)

    def beat(self) -> None:
        """Send each frontend that had a message lately one without outputs; call it once a second.

        A lost message shows by the gap in the numbers, so something has to follow the last one.
        """
        waiting = set(self._owners.values())
        for frontend in waiting | set(self._beats):
            left = self._beats.get(frontend, BEATS) - 1
            self._deliver(frontend, StepOutputs(self._worker_id, self._next_number(frontend), ()))
            if left > 0:
                self._beats[frontend] = left
            else:
                self._beats.pop(frontend, None)

    def forget(self, frontend: bytes) -> None:
        """A frontend is gone for good: nobody waits for its requests."""
        self._numbers.pop(frontend, None)
        self._beats.pop(frontend, None)
        self._drop_requests(frontend)

    def _drop_requests(self, frontend: bytes) -> None:
        self._abort([rid for rid, owner in self._owners.items() if owner == frontend])

    def _on_generate(self, frontend: bytes, request: Generate) -> None:
        if self._refusing is not None:
            self._refuse(frontend, request.request_id, self._refusing, retry_elsewhere=True)
        elif request.request_id in self._owners:
            self._refuse(frontend, request.request_id, "duplicate request", retry_elsewhere=False)
        elif not request.is_replay and self._is_full(frontend, request):
            pass
        else:
            self._owners[request.request_id] = frontend
            self._guard.taken(request)
            if self._is_holding:
                self._held[request.request_id] = request
            else:
                self._pass_on(frontend, request)

    def _pass_on(self, frontend: bytes, request: Generate) -> None:
        self._submit(request)
        if request.is_replay:
            self._acknowledge(frontend, request)

    def _acknowledge(self, frontend: bytes, request: Generate) -> None:
        """Say that a replay has come. Should this worker die now, the replay may be why; one that
        was sent to a dead worker is not to blame for it."""
        taken = Output(request.request_id, (), len(request.output_token_ids))
        number = self._next_number(frontend)
        self._deliver(frontend, StepOutputs(self._worker_id, number, (taken,)))

    def _is_full(self, frontend: bytes, request: Generate) -> bool:
        """Whether there is no room for a request, which is then refused."""
        reason = self._guard.why_full(request, self.in_flight)
        if reason is None:
            return False
        retry_after_s = self._guard.retry_after_s(self.in_flight)
        self._refuse(frontend, request.request_id, reason, True, retry_after_s)
        return True

    def _abort(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            del self._owners[request_id]
            self._guard.answered(request_id)
            self._guard.ended()
        passed_on = [each for each in request_ids if self._held.pop(each, None) is None]
        if passed_on:
            self._submit(Abort(tuple(passed_on)))

    def _refuse(
        self,
        frontend: bytes,
        request_id: str,
        reason: str,
        retry_elsewhere: bool,
        retry_after_s: float = 0.0,
    ) -> None:
        number = self._next_number(frontend)
        refused = Refused(
            self._worker_id, number, request_id, reason, retry_elsewhere, retry_after_s
        )
        self._deliver(frontend, refused)

    def _next_number(self, frontend: bytes) -> int:
        number = self._numbers[frontend]
        self._numbers[frontend] = number + 1
        return number

    def _deliver(self, frontend: bytes, message: OutputMessage) -> None:
        self._beats[frontend] = BEATS
        if not self._send(frontend, OUTPUTS.encode(message)):
            # Should it come back, the gap tells it that its requests are no longer run here.
            self._drop_requests(frontend)
