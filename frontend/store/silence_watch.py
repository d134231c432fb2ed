"""Tell owners that have died from those that only seem to, as a clock was set.

An owner renews its heartbeat, a time by the database's clock. If that clock is set forward, all
heartbeats are old at once; if it is set back, a dead owner's stays fresh. So a heartbeat that is
not fresh only begins a watch: its owner has died if the heartbeat stays the same for a while by
this process's own steady clock.
"""

import time
from collections.abc import Mapping

from sqlalchemy import or_
from sqlalchemy.sql.elements import ColumnElement

# The share of the time after which an owner has died that passes before it is watched.
_UNWATCHED = 0.4
# After such a pause of the watching process, heartbeats may wait for others that were paused, too.
GAP_S = 3.0
# So many rows are watched at once; others have their turn when these have ended.
MAX_WATCHED = 1000


class SilenceWatch:
    """The heartbeats that one process watches."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}  # heartbeat, and since when, by row
        self._looked_at = 0.0

    @staticmethod
    def is_suspect(age_s: ColumnElement[float], stale_s: float) -> ColumnElement[bool]:
        """Return the condition for rows that must be watched.

        age_s: of the heartbeat. stale_s: an owner that is silent for so long has died.
        """
        fresh_s = _UNWATCHED * stale_s
        return or_(age_s >= fresh_s, age_s <= -fresh_s)

    def look(self, heartbeats: Mapping[str, float], stale_s: float) -> dict[str, float]:
        """Return for how long each of all suspect rows has been silent."""
        now = time.monotonic()
        seen = self._seen if now - self._looked_at <= GAP_S else {}
        self._looked_at, self._seen = now, {}
        for row, heartbeat in heartbeats.items():
            before, since = seen.get(row, (heartbeat, now))
            self._seen[row] = heartbeat, since if before == heartbeat else now
        return {row: _UNWATCHED * stale_s + now - since for row, (_, since) in self._seen.items()}
