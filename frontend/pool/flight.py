"""A request in flight: its outputs so far, and what another worker needs to continue it."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from headrace.frontend.pool.interface import PoolError
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import EngineRequest, Generate


class Flight:
    """The OutputStream of one request.

    replays: how often it has failed over. failures: how many of these it may have caused.
    reached_worker: false for a replay whose worker may have been dead already.
    wire_id: its id in the worker that has it now. sent_at: when it was sent there.
    migrations: how often it has been moved out of a worker's queue.
    start: called when the first output is awaited. end: called once, when the request has ended in
    any way; `finished` tells whether its worker knows that already.
    """

    def __init__(
        self,
        group: str,
        request: EngineRequest,
        start: Callable[["Flight"], None],
        end: Callable[["Flight"], None],
    ) -> None:
        self.group = group
        self.request = request
        self.worker_id: str | None = None
        self.wire_id = request.request_id
        self.rejected_by: set[str] = set()
        self.sent_at = 0.0
        self.replays = self.migrations = 0
        self.failures = 0
        self.reached_worker = True
        # The soonest that a worker which rejected it may have capacity.
        self.retry_after_s = math.inf
        self.met_draining = False  # a worker that rejected it is draining
        self.finished = False
        self._start: Callable[[Flight], None] | None = start
        self._end: Callable[[Flight], None] | None = end
        self._tokens: list[int] = list(request.output_token_ids)
        self._admitted = False
        self._mailbox: deque[Output | PoolError] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._notify: Callable[[], None] | None = None

    @property
    def tokens_so_far(self) -> int:
        """The number of output tokens, replayed ones included."""
        return len(self._tokens)

    def to_request(self) -> EngineRequest:
        """Return the request to send now, with the output tokens that it already has."""
        request = self.request
        if not isinstance(request, Generate):
            return replace(request, request_id=self.wire_id, is_replay=self.has_begun)
        sampling = request.sampling
        if self._admitted:  # the client has got them
            sampling = replace(sampling, prompt_logprobs=None)
        return replace(
            request,
            request_id=self.wire_id,
            sampling=sampling,
            output_token_ids=tuple(self._tokens),
            is_replay=self.has_begun or bool(self._tokens),
        )

    @property
    def has_begun(self) -> bool:
        """Whether the client may have seen output, so that it cannot be rejected any more."""
        return self.replays > 0 or self._admitted

    def begin_failover(self) -> None:
        """Prepare to run again on another worker, with the tokens that it has."""
        self.replays += 1
        self.reached_worker = False
        self._detach()

    def begin_migration(self) -> None:
        """Prepare to move to another worker, before any output."""
        self.migrations += 1
        self._detach()

    def _detach(self) -> None:
        """Change the wire id, so that late messages of the former worker are ignored."""
        self.wire_id = f"{self.request.request_id}+{self.replays + self.migrations}"
        self.worker_id = None
        self.rejected_by.clear()

    def add_output(self, output: Output) -> None:
        """Append an output from the worker, in order."""
        self.reached_worker = True
        if not output.token_ids and output.admission is None and output.finish_reason is None:
            return  # the worker confirms that it has the replay
        self._tokens.extend(output.token_ids)
        if output.admission is not None:
            if self._admitted:  # a replay's admission describes the replay, not the request
                output = replace(output, admission=None)
            self._admitted = True
        self._mailbox.append(output)
        self._wake()
        if output.finish_reason is not None:
            self.finished = True
            self._finish()

    def fail(self, error: PoolError) -> None:
        """End the request with an error."""
        self._mailbox.append(error)
        self._wake()
        self.finished = True
        self._finish()

    def cancel(self) -> None:
        """End the request because its client does not wait any more."""
        self._start = None
        self._finish()
        self._wake()

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        self._begin()
        while (output := self.ready()) is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return output

    def listen(self, notify: Callable[[], None]) -> None:
        self._begin()
        self._notify = notify
        for _ in range(len(self._mailbox)):
            notify()

    def ready(self) -> Output | None:
        if not self._mailbox:
            if self._end is None:
                raise StopAsyncIteration
            return None
        item = self._mailbox.popleft()
        if isinstance(item, PoolError):
            raise item
        return item

    def _begin(self) -> None:
        if self._start is not None:
            start, self._start = self._start, None
            start(self)

    def _wake(self) -> None:
        if self._notify is not None:
            self._notify()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _finish(self) -> None:
        if self._end is not None:
            end, self._end = self._end, None
            end(self)
