"""Decide whether a worker accepts one more request, and when a rejected client may retry."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from headrace.protocol.state import WorkerLoad
from headrace.protocol.to_frontend import QUEUE_FULL
from headrace.protocol.to_worker import BATCH_PRIORITY, EngineRequest

MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0
_REMEMBERED_ENDS = 64
# Above this share of the cache in use, a prompt may not fit.
SHORT_FROM = 0.5


@dataclass(frozen=True)
class QueueLimits:
    """max_running: requests that the engine runs at once. max_requests: requests that may wait.
    max_tokens: prompt tokens of requests without an output token. None: unlimited."""

    max_running: int
    max_requests: int | None = None
    max_tokens: int | None = None


class QueueGuard:
    """Counts the requests that wait in a worker. All requests pass it, so that limits are exact
    with any number of frontends, and it does not wait for a step.

    Lines of batches that wait take no place of others, which go before them.

    load: returns the load after the engine's last step.
    """

    def __init__(
        self,
        limits: QueueLimits,
        load: Callable[[], WorkerLoad],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._load = load
        self._clock = clock
        self._unanswered: dict[str, int] = {}
        self._tokens = 0
        self._lines: dict[str, int] = {}  # those of the unanswered that are lines of batches
        self._ends: deque[float] = deque(maxlen=_REMEMBERED_ENDS)

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens of requests without an output token."""
        return self._tokens

    def why_full(self, request: EngineRequest, in_flight: int) -> str | None:
        """Return why a request must be rejected; None if it can be accepted."""
        limits, tokens = self._limits, self._tokens
        if request.priority != BATCH_PRIORITY:
            in_flight -= len(self._lines)
            tokens -= sum(self._lines.values())
        if limits.max_requests is not None and self._queued(in_flight + 1) > limits.max_requests:
            return QUEUE_FULL
        wanted = tokens + len(request.prompt_token_ids)
        # A prompt of any length can run when there is no other.
        if limits.max_tokens is not None and tokens and wanted > limits.max_tokens:
            return "the queue holds too many tokens"
        return None

    def retry_after_s(self, in_flight: int) -> float:
        """Return when all requests that wait now will run, at the recent rate of ends."""
        if len(self._ends) < 2:
            return MIN_RETRY_S
        rate = (len(self._ends) - 1) / max(self._clock() - self._ends[0], 1e-3)
        return min(max(self._queued(in_flight) / rate, MIN_RETRY_S), MAX_RETRY_S)

    def on_accepted(self, request: EngineRequest) -> None:
        """Note an accepted request."""
        self._unanswered[request.request_id] = len(request.prompt_token_ids)
        self._tokens += len(request.prompt_token_ids)
        if request.priority == BATCH_PRIORITY:
            self._lines[request.request_id] = len(request.prompt_token_ids)

    def on_first_output(self, request_id: str) -> None:
        """Note that a request has its first token, or will never get one. Idempotent."""
        self._tokens -= self._unanswered.pop(request_id, 0)
        self._lines.pop(request_id, None)

    def on_finished(self) -> None:
        """Note that a request has ended."""
        self._ends.append(self._clock())

    def _queued(self, in_flight: int) -> int:
        """Return how many requests have to wait."""
        load = self._load()
        # A queue although the batch is not full: memory is short, or the next step admits it.
        is_short = load.waiting > 0 and load.kv_usage > SHORT_FROM
        free = 0 if is_short else max(self._limits.max_running - load.running, 0)
        return max(in_flight - load.running - free, 0)
