"""Log what requests cause without letting them fill the log."""

import logging
import time
from collections.abc import Callable

_INTERVAL_S = 60.0
_MAX_KINDS = 256


class LimitedLog:
    """Logs at most one warning of each kind within a minute, and how many were left out.

    logger: where warnings go. clock: returns seconds.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._logged_s: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warning(self, kind: str) -> None:
        """Log a text, which is its own kind; it must hold nothing that a client has written."""
        now_s = self._clock()
        last_s = self._logged_s.get(kind)
        if last_s is None and len(self._logged_s) >= _MAX_KINDS:
            return
        if last_s is not None and now_s - last_s < _INTERVAL_S:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        self._logged_s[kind] = now_s
        left_out = self._left_out.pop(kind, 0)
        more = f" (and {left_out} times since the last such line)" if left_out else ""
        self._logger.warning("%s%s", kind, more)
