"""Keep warnings and errors that repeat themselves from filling the log."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from headrace.protocol.logs.record import SafeRecord

INTERVAL_S = 60.0
MAX_KINDS = 1000
# Records of one line of code in an interval, however they differ.
MAX_OF_A_PLACE = 100
_LOOK_S = 1.0

_Key = tuple[str, str | int]


@dataclass
class _Kind:
    """What has come of equal records in an interval. most: how many of them are shown."""

    record: SafeRecord
    began_s: float
    most: int
    count: int = 0


class FloodFilter(logging.Filter):
    """Passes one of equal records in a minute, and says later how many others there were.

    Only warnings and above are limited. One filter serves all handlers of a process: what it has
    decided about a record holds for each.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[_Key, _Kind] = {}
        self._lock = threading.RLock()
        self._looked_s = clock()

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record, SafeRecord):
            return True
        if record.is_shown is None:
            with self._lock:
                record.is_shown = record.levelno < logging.WARNING or self._passes(record)
                self._end_intervals()
        return record.is_shown

    def sum_up(self) -> None:
        """Say of all records that were left out how many they are."""
        with self._lock:
            kinds, self._kinds = self._kinds, {}
            for kind in kinds.values():
                self._tell(kind)

    def _passes(self, record: SafeRecord) -> bool:
        text = record.getMessage() + (record.exc_text or "")
        is_new = self._count((record.name, text), record, 1)
        return is_new and self._count((record.pathname, record.lineno), record, MAX_OF_A_PLACE)

    def _count(self, key: _Key, record: SafeRecord, most: int) -> bool:
        """Count a record; return whether it is among the first of its interval."""
        now_s, kind = self._clock(), self._kinds.get(key)
        if kind is None or now_s - kind.began_s >= INTERVAL_S:
            if kind is not None:
                self._tell(self._kinds.pop(key))
            if len(self._kinds) >= MAX_KINDS:
                self._tell(self._kinds.pop(next(iter(self._kinds))))
            self._kinds[key] = kind = _Kind(record, now_s, most)
        kind.count += 1
        return kind.count <= most

    def _end_intervals(self) -> None:
        now_s = self._clock()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        over = [key for key, kind in self._kinds.items() if now_s - kind.began_s >= INTERVAL_S]
        for kind in [self._kinds.pop(key) for key in over]:
            self._tell(kind)

    def _tell(self, kind: _Kind) -> None:
        """Log how many records of a kind were left out, if any were."""
        left_out = kind.count - kind.most
        if left_out <= 0:
            return
        first = kind.record
        summary = SafeRecord(
            first.name, first.levelno, first.pathname, first.lineno, first.msg, first.args, None
        )
        alike = "more times" if kind.most == 1 else "more from the same place"
        summary.addition = f" ({left_out} {alike} within {self._clock() - kind.began_s:.0f} s)"
        summary.is_shown = True
        logging.getLogger(first.name).handle(summary)
