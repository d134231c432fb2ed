"""Tell clients and operators which fields of requests were ignored: in a header and in the log.

Clients choose the names, so both are bounded, whatever the clients send.
"""

import logging
import re
import time
from collections.abc import Iterable

log = logging.getLogger("headrace.frontend")

HEADER = "X-Headrace-Ignored-Fields"

# Proxies have a few kilobytes for all headers of a response together.
_MAX_HEADER_CHARS = 1000
_MAX_NAME_CHARS = 80
_UNSAFE = re.compile(r"[^A-Za-z0-9_.$\[\]-]")

# Names that the log has named; the rest of a process's life it names no more than these.
_MAX_LOGGED = 512
# Lines in a burst, and seconds until there may be another one.
_BURST = 10
_REFILL_S = 6.0


def header_value(names: Iterable[str]) -> str:
    """Return the header's value: names separated by commas, and "..." where some are left out."""
    value = ""
    for name in names:
        longer = f"{value}, {shown(name)}" if value else shown(name)
        if len(longer) > _MAX_HEADER_CHARS:
            return f"{value}, ..."
        value = longer
    return value


def shown(name: str) -> str:
    """Return a field's name as headers and logs show it: cut, of harmless characters."""
    if len(name) > _MAX_NAME_CHARS:
        name = f"{name[:_MAX_NAME_CHARS]}..."
    return _UNSAFE.sub("?", name)


class IgnoredFieldLog:
    """Names each ignored field once in the log."""

    def __init__(self) -> None:
        self._logged: set[str] = set()
        self._lines = float(_BURST)
        self._refilled = time.monotonic()

    def note(self, names: Iterable[str]) -> None:
        """Log the names that have not been logged, in one line, unless there were many lines."""
        if len(self._logged) >= _MAX_LOGGED:
            return
        fresh = [name for name in map(shown, names) if name not in self._logged]
        if not fresh or not self._may_log():
            return
        fresh = fresh[: _MAX_LOGGED - len(self._logged)]
        self._logged.update(fresh)
        log.warning("ignored parts of requests that are unknown here: %s", ", ".join(fresh))
        if len(self._logged) >= _MAX_LOGGED:
            log.warning(
                "ignored %d unknown parts of requests so far: naming no more of them", _MAX_LOGGED
            )

    def _may_log(self) -> bool:
        """Return whether another line may be logged now, and count it."""
        now = time.monotonic()
        self._lines = min(_BURST, self._lines + (now - self._refilled) / _REFILL_S)
        self._refilled = now
        if self._lines < 1:
            return False
        self._lines -= 1
        return True
