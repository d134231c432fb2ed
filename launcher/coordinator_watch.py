"""Watches the coordinator for the launcher: one that is frozen notices no worker's death, and
nobody but the launcher notices it."""

import asyncio
import logging
import math
from collections.abc import Callable

from headrace.protocol.common.awake_clock import AwakeClock

log = logging.getLogger("launcher")

# A coordinator speaks every second, once it has its imports behind it.
START_S = 60.0
LEAST_SILENCE_S = 3.0
POLL_S = 0.5


class CoordinatorWatch:
    """silence_s: after so much of it the coordinator is killed. kill: false if there is none."""

    def __init__(self, silence_s: float, kill: Callable[[], bool]) -> None:
        self._silence_s, self._kill = max(silence_s, LEAST_SILENCE_S), kill
        self._clock = AwakeClock(longest_turn_s=2 * POLL_S)
        self._due = math.inf  # by when it is to have spoken

    def started(self) -> None:
        """Another one has been started, which says nothing yet."""
        self._due = self._clock.now() + START_S

    def heard(self) -> None:
        """It has spoken."""
        self._due = self._clock.now() + self._silence_s

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            if self._clock.now() >= self._due:
                self._due = math.inf
                if self._kill():
                    log.error("the coordinator says nothing: it is killed")
