"""Kills a coordinator that is frozen: it notices no worker's death, and only the launcher can."""

import asyncio
import logging
import math
from collections.abc import Callable

from headrace.protocol.common.awake_clock import AwakeClock

log = logging.getLogger("headrace.launcher")

# A coordinator publishes every second, once it has imported its modules.
START_S = 60.0
MIN_SILENCE_S = 3.0
POLL_S = 0.5


class CoordinatorWatch:
    """A timeout on the coordinator's messages.

    silence_s: the coordinator is killed after so many seconds without a message.
    kill: kills it; returns false if none runs.
    """

    def __init__(self, silence_s: float, kill: Callable[[], bool]) -> None:
        self._silence_s, self._kill = max(silence_s, MIN_SILENCE_S), kill
        self._clock = AwakeClock(longest_gap_s=2 * POLL_S)
        self._deadline = math.inf  # of its next message

    def started(self) -> None:
        """Note that a coordinator has been started, which sends nothing yet."""
        self._deadline = self._clock.now() + START_S

    def heard(self) -> None:
        """Note a message of the coordinator."""
        self._deadline = self._clock.now() + self._silence_s

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            if self._clock.now() >= self._deadline:
                self._deadline = math.inf
                if self._kill():
                    log.error("coordinator timed out: killed")
