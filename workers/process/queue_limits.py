"""Whether a worker takes one more request, and when whoever is refused may come again."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from headrace.protocol.state import WorkerLoad
from headrace.protocol.to_frontend import QUEUE_FULL
from headrace.protocol.to_worker import Generate

LEAST_RETRY_S, LONGEST_RETRY_S = 1.0, 60.0
_REMEMBERED_ENDS = 64
# From this share of the cache in use on, a request may find no room for its prompt.
SHORT_FROM = 0.5


@dataclass(frozen=True)
class QueueLimits:
    """places: requests that the engine runs at once. max_requests: that may wait for a place.
    max_tokens: prompt tokens of those that have got no token yet. None: any number."""

    places: int
    max_requests: int | None = None
    max_tokens: int | None = None


class QueueGuard:
    """Counts what waits in a worker. It is asked where all requests come in, so that limits are
    exact however many frontends there are, and answers without waiting for a step.

    load: of the engine after its last step.
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
        self._ends: deque[float] = deque(maxlen=_REMEMBERED_ENDS)

    @property
    def waiting_tokens(self) -> int:
        """Of the prompts of requests that have got no token yet."""
        return self._tokens

    def why_full(self, request: Generate, in_flight: int) -> str | None:
        """Why a request has to be refused, beside so many others; None if it can be taken."""
        limits = self._limits
        if limits.max_requests is not None and self._queued(in_flight + 1) > limits.max_requests:
            return QUEUE_FULL
        wanted = self._tokens + len(request.prompt_token_ids)
        # However long a prompt is, it can be run when there is no other.
        if limits.max_tokens is not None and self._tokens and wanted > limits.max_tokens:
            return "the queue holds too many tokens"
        return None

    def retry_after_s(self, in_flight: int) -> float:
        """When what waits now will have got a place, at the rate at which requests ended lately."""
        if len(self._ends) < 2:
            return LEAST_RETRY_S
        rate = (len(self._ends) - 1) / max(self._clock() - self._ends[0], 1e-3)
        return min(max(self._queued(in_flight) / rate, LEAST_RETRY_S), LONGEST_RETRY_S)

    def taken(self, request: Generate) -> None:
        self._unanswered[request.request_id] = len(request.prompt_token_ids)
        self._tokens += len(request.prompt_token_ids)

    def answered(self, request_id: str) -> None:
        """It has got its first token, or will never get one. Harmless a second time."""
        self._tokens -= self._unanswered.pop(request_id, 0)

    def ended(self) -> None:
        """A request has come to its end, and its place is free."""
        self._ends.append(self._clock())

    def _queued(self, in_flight: int) -> int:
        """Requests that have no place, nor one that is free for them."""
        load = self._load()
        # With a queue beside free places, memory is short; or the batch takes nobody for one step.
        is_short = load.waiting > 0 and load.kv_usage > SHORT_FROM
        free = 0 if is_short else max(self._limits.places - load.running, 0)
        return max(in_flight - load.running - free, 0)
