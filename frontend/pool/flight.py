"""A request in flight: what came of it so far, and what is needed to run it elsewhere."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from headrace.frontend.pool.interface import PoolError
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Generate


class Flight:
    """The OutputStream of one request.

    replays: how often it has gone on elsewhere. failures: how many of them it may be to blame for.
    reached_worker: false of a replay that may have been sent to a worker that was dead already.
    wire_id: what the worker that has it now calls it. sent_at: when it was sent to that.
    moves: how often it has left a worker in which it waited.
    start: called when the first output is asked for. end: called once, when the request has
    ended in whatever way; `finished` tells whether its worker knows that already.
    """

    def __init__(
        self,
        group: str,
        request: Generate,
        start: Callable[["Flight"], None],
        end: Callable[["Flight"], None],
    ) -> None:
        self.group = group
        self.request = request
        self.worker_id: str | None = None
        self.wire_id = request.request_id
        self.refused_by: set[str] = set()
        self.sent_at = 0.0
        self.replays = self.moves = 0
        self.failures = 0
        self.reached_worker = True
        self.retry_after_s = math.inf  # the soonest that one who refused it may have room
        self.met_stopping = False  # one who refused it takes nothing any more
        self.finished = False
        self._start: Callable[[Flight], None] | None = start
        self._end: Callable[[Flight], None] | None = end
        self._tokens: list[int] = list(request.output_token_ids)
        self._admitted = False
        self._mailbox: deque[Output | PoolError] = deque()
        self._waiter: asyncio.Future[None] | None = None

    @property
    def tokens_so_far(self) -> int:
        return len(self._tokens)

    def to_send(self) -> Generate:
        """The request as it is to be sent now: with the tokens that it has already got."""
        sampling = self.request.sampling
        if self._admitted:  # what the prompt says has been told
            sampling = replace(sampling, prompt_logprobs=None)
        return replace(
            self.request,
            request_id=self.wire_id,
            sampling=sampling,
            output_token_ids=tuple(self._tokens),
            is_replay=self.has_begun or bool(self._tokens),
        )

    @property
    def has_begun(self) -> bool:
        """Whether the client may have seen some of it, so that it cannot be refused any more."""
        return self.replays > 0 or self._admitted

    def begin_replay(self) -> None:
        """It is run again, with the tokens that it has."""
        self.replays += 1
        self.reached_worker = False
        self._leave()

    def begin_move(self) -> None:
        """It goes elsewhere, before anything has come of it."""
        self.moves += 1
        self._leave()

    def _leave(self) -> None:
        """Take another id, so that what a former worker may still say of it is not mistaken."""
        self.wire_id = f"{self.request.request_id}+{self.replays + self.moves}"
        self.worker_id = None
        self.refused_by.clear()

    def put(self, output: Output) -> None:
        """An output from the worker, in order."""
        self.reached_worker = True
        if not output.token_ids and output.admission is None and output.finish_reason is None:
            return  # the worker says that it has the replay
        self._tokens.extend(output.token_ids)
        if output.admission is not None:
            if self._admitted:  # a replay's admission tells of the replay, not of the request
                output = replace(output, admission=None)
            self._admitted = True
        self._mailbox.append(output)
        self._wake()
        if output.finish_reason is not None:
            self.finished = True
            self._finish()

    def fail(self, error: PoolError) -> None:
        self._mailbox.append(error)
        self._wake()
        self.finished = True
        self._finish()

    def cancel(self) -> None:
        """Nobody waits for this request any more."""
        self._start = None
        self._finish()
        self._wake()

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        if self._start is not None:
            start, self._start = self._start, None
            start(self)
        while not self._mailbox:
            if self._end is None:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._take()

    def ready(self) -> Output | None:
        return self._take() if self._mailbox else None

    def _take(self) -> Output:
        item = self._mailbox.popleft()
        if isinstance(item, PoolError):
            raise item
        return item

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _finish(self) -> None:
        if self._end is not None:
            end, self._end = self._end, None
            end(self)
