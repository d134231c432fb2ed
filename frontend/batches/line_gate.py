"""Let lines of batches run while their group has room for them, and stop some when it has not."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable

from headrace.frontend.batches.capacity import Room

# How often the limits follow the pool's load.
TICK_S = 0.1
# How fast the number of lines may rise, and how far it falls while others wait.
STEP_UP, SHRINK = 1.25, 0.7
FIRST_LINES = 4
# An event loop that runs this much late has more to do than it can: streams wait for lines.
BUSY_S = 0.03
# The pool's load is known this much later, at most.
LATE_S = 0.6

Stop = Callable[[], None]


class LineGate:
    """Counts the lines that this frontend runs for each group.

    room: returns a group's room, given how many of its requests are lines.
    """

    def __init__(
        self, room: Callable[[str, int], Room], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._room, self._clock = room, clock
        self._running: dict[str, dict[object, Stop]] = {}
        self._limits: dict[str, float] = {}
        self._paused_until: dict[str, float] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._recent: dict[str, deque[tuple[float, int]]] = {}
        self._late_s = 0.0
        # How many other frontends run batches, and how many lines.
        self.others = (0, 0)

    @property
    def in_flight(self) -> Counter[str]:
        """How many lines run here, by group."""
        return Counter({group: len(lines) for group, lines in self._running.items()})

    async def enter(self, group: str) -> None:
        """Wait until one more line of a group may run; the caller must call `add` at once."""
        while not self._has_room(group):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            queue = self._waiting.setdefault(group, deque())
            queue.append(future)
            try:
                await future
            finally:
                if future in queue:
                    queue.remove(future)

    def add(self, group: str, stop: Stop) -> Callable[[], None]:
        """Note that a line runs. Returns a function to call when it has ended.

        stop: called if it must make room; it is run again later.
        """
        key = object()
        self._running.setdefault(group, {})[key] = stop
        self._wake(group)

        def end() -> None:
            self._running[group].pop(key, None)
            self._wake(group)

        return end

    def pause(self, group: str, seconds: float) -> None:
        """Let no line of a group begin for some time: the pool has taken none."""
        until = self._clock() + seconds
        self._paused_until[group] = max(until, self._paused_until.get(group, 0.0))
        self._limits[group] = 1.0

    def tick(self, late_s: float = 0.0) -> None:
        """Follow the pool's load, and this process's; call it every TICK_S.

        late_s: how late the event loop called it.
        """
        self._late_s = max(late_s, self._late_s * SHRINK)
        for group in self._running.keys() | self._waiting.keys():
            self._follow(group)
            self._wake(group)

    def _follow(self, group: str) -> None:
        running, now = len(self._running.get(group, ())), self._clock()
        owners, others = self.others
        room = self._room(group, self._most_recent(group, running, now) + others)
        most = max(room.lines // (owners + 1), room.lines - others, 1) if room.lines else 0
        limit = self._limits.get(group, FIRST_LINES)
        if room.is_short or self._late_s > BUSY_S:
            limit = max(min(limit, running) * SHRINK, 1.0)
        elif running >= int(limit) - 1 or not running:
            limit = limit * STEP_UP + 1
        self._limits[group] = min(limit, most)
        if room.is_short:
            self._stop_newest(group, running - int(self._limits[group]))

    def _most_recent(self, group: str, running: int, now: float) -> int:
        """Return the most lines of late: a load that the pool reports may still contain them."""
        seen = self._recent.setdefault(group, deque())
        seen.append((now, running))
        while now - seen[0][0] > LATE_S:
            seen.popleft()
        return max(count for _, count in seen)

    def _stop_newest(self, group: str, count: int) -> None:
        """Stop lines, the newest first: they lose the least."""
        stops = list(self._running.get(group, {}).values())
        for stop in stops[len(stops) - count :] if count > 0 else ():
            stop()

    def _has_room(self, group: str) -> bool:
        if self._clock() < self._paused_until.get(group, 0.0):
            return False
        return len(self._running.get(group, ())) < int(self._limits.get(group, FIRST_LINES))

    def _wake(self, group: str) -> None:
        """Have a waiting line look again; it wakes the next one when it has begun to run."""
        queue = self._waiting.get(group)
        while queue and self._has_room(group):
            future = queue.popleft()
            if not future.done():
                future.set_result(None)
                return
