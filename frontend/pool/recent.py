"""How many requests a frontend has sent to each worker in the last moments."""

import time
from collections import defaultdict, deque
from collections.abc import Callable

# So old may be what is known of a worker's load: a heartbeat and the coordinator's next news.
UNSEEN_S = 0.3


class RecentSends:
    """What other frontends have sent meanwhile cannot be known; but all of them see the same and
    choose alike, so each takes the others to have done what it has done itself. Else they would all
    send a burst to the worker that seemed least busy when it began."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    def note(self, worker_id: str) -> None:
        """A request has been sent."""
        self._times[worker_id].append(self._clock())

    def count(self, worker_id: str) -> int:
        """How many have been sent that others may not see yet."""
        times = self._times.get(worker_id)
        if times is None:
            return 0
        while times and times[0] < self._clock() - UNSEEN_S:
            times.popleft()
        return len(times)

    def forget(self, worker_id: str) -> None:
        self._times.pop(worker_id, None)
