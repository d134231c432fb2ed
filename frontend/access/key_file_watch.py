"""Keep a table of keys as its file is."""

import asyncio
import hashlib
import logging
from pathlib import Path

from headrace.frontend.access.key_table import KeyTable
from headrace.protocol.common import key_file
from headrace.protocol.common.key_file import BadKeyFile

log = logging.getLogger("headrace.frontend")

INTERVAL_S = 0.5
# A file that is written in place is read half for a moment: it must be the same twice.
SETTLE_S = 0.1


class KeyFileWatch:
    """The keys of a file, which are read again whenever its content changes.

    The content is compared, not its time: that says nothing about two changes at once, nor where
    a link leads meanwhile. A bad file changes nothing but the log.
    run_dir: keeps the last good keys for frontends that start while the file is bad.
    """

    def __init__(self, table: KeyTable, path: Path, run_dir: Path) -> None:
        self._table, self._path, self._run_dir = table, path, run_dir
        self._seen = b""  # digest of the content that was taken last, good or bad
        self._problem = ""

    async def run(self) -> None:
        """Watch the file until the task is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Take the file's keys if it has changed."""
        try:
            data = await self._settled()
            if data is None:
                return
            # In a thread: ten thousand keys take a while, and disks may stop answering.
            await asyncio.to_thread(self._take, data)
        except BadKeyFile as error:
            self._complain(str(error))

    async def _settled(self) -> bytes | None:
        """Return the content; None if it is what was taken last, or still changes."""
        data = await asyncio.to_thread(key_file.read_bytes, self._path)
        if self._is_seen(data):
            return None
        await asyncio.sleep(SETTLE_S)
        again = await asyncio.to_thread(key_file.read_bytes, self._path)
        return again if again == data else None

    def _is_seen(self, data: bytes) -> bool:
        is_seen = hashlib.sha256(data).digest() == self._seen
        if is_seen and self._problem.startswith("cannot be read"):
            self._problem = ""  # it can be read again, and is as it was
        return is_seen

    def _take(self, data: bytes) -> None:
        self._seen = hashlib.sha256(data).digest()
        keys = key_file.parse(data, key_file.is_json(self._path))
        key_file.check_distinct(self._table.given, keys)
        is_change = self._table.replace_file_keys(keys)
        self._problem = ""
        if is_change:
            log.info("the file of API keys now has %d keys", len(keys))
        try:
            key_file.save_last_good(self._run_dir, keys)
        except OSError as error:
            log.warning("cannot keep a copy of the API keys: %s", error.strerror)

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.error("--api-key-file: %s: its last good keys stay in force", problem)
