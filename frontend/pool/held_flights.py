"""Hold the requests that no worker takes now, and have workers woken for them."""

from collections import Counter
from collections.abc import Callable

from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.interface import PoolUnavailable
from headrace.frontend.pool.known_pool import KnownPool

# How long a request waits after all its workers are gone; longer while one starts.
STRANDED_TIMEOUT_S = 60.0
# Retry-After for requests whose group has not woken up in time.
RETRY_SLEEPING_S = 10.0


class HeldFlights:
    """The flights that wait for a worker, with the time since when.

    wake: called repeatedly with a group while requests wait for it and all of it sleeps.
    wake_timeout_s: how long they wait.
    """

    def __init__(
        self,
        pool: KnownPool,
        clock: Callable[[], float],
        wake: Callable[[str], None],
        wake_timeout_s: float,
    ) -> None:
        self._pool, self._clock = pool, clock
        self._wake, self._wake_timeout_s = wake, wake_timeout_s
        self._since: dict[Flight, float] = {}
        self._wake_requested: set[str] = set()  # since the last pool state

    def __len__(self) -> int:
        return len(self._since)

    def by_group(self) -> dict[str, int]:
        """Return how many flights wait for each group."""
        return dict(Counter(flight.group for flight in self._since))

    def hold(self, flight: Flight, since: float | None = None) -> None:
        """Have a flight wait for the next pool state. since: when it began to wait; None: now."""
        self._since[flight] = self._clock() if since is None else since
        if self._pool.is_asleep(flight.group):
            self._request_wake_up(flight.group)

    def discard(self, flight: Flight) -> None:
        """Note that a flight has ended."""
        self._since.pop(flight, None)

    def take_all(self) -> dict[Flight, float]:
        """Remove and return all flights, with the time since when they wait."""
        taken, self._since = self._since, {}
        return taken

    def why_over(self, flight: Flight, since: float) -> PoolUnavailable | None:
        """Return the error of a flight that has waited too long; None if it may go on waiting."""
        waited_s = self._clock() - since
        if waited_s >= self._wake_timeout_s and self._pool.is_asleep(flight.group):
            return PoolUnavailable("no worker has been woken or started in time", RETRY_SLEEPING_S)
        if waited_s >= STRANDED_TIMEOUT_S and not self._pool.is_worker_coming(flight.group):
            return PoolUnavailable("no worker has come back to go on with the request")
        return None

    def on_state(self) -> None:
        """Note a new pool state: a request to wake up may have been lost, and is repeated."""
        self._wake_requested.clear()

    def _request_wake_up(self, group: str) -> None:
        """Request it once for all requests."""
        if group not in self._wake_requested:
            self._wake_requested.add(group)
            self._wake(group)
