"""The certificate of a frontend, which may change while it serves."""

import asyncio
import contextlib
import logging
from pathlib import Path

from headrace.protocol.network.connection_options import TLSOptions
from headrace.protocol.network.tls import TLSError, files_of, server_context

log = logging.getLogger("headrace.frontend")

POLL_S = 1.0

_Seen = tuple[tuple[int, ...] | None, ...]


class Certificate:
    """The context of new connections, made of the files of TLS.

    A context is never changed, since connections may be made with it meanwhile: another takes its
    place when all files fit each other. Established connections keep theirs.
    """

    def __init__(self, options: TLSOptions) -> None:
        self._options = options
        self._files = tuple(file for _, file in files_of(options))
        self._seen = self._look()
        self.context = server_context(options)

    async def watch(self) -> None:
        """Load the files again each time that one of them has changed."""
        while True:
            await asyncio.sleep(POLL_S)
            seen = await asyncio.to_thread(self._look)
            if seen != self._seen:
                self._seen = seen
                await self._load()

    async def _load(self) -> None:
        try:
            self.context = await asyncio.to_thread(server_context, self._options)
        except TLSError as error:
            flag = "--" + error.option.replace("_", "-")
            log.warning(
                "the certificate has changed, the old one stays in use: %s: %s", flag, error.reason
            )
        else:
            log.info("the certificate has changed: new connections get the new one")

    def _look(self) -> _Seen:
        """Return what shows whether a file is another one than before."""
        return tuple(_identity(file) for file in self._files)


def _identity(file: Path) -> tuple[int, ...] | None:
    with contextlib.suppress(OSError):
        status = file.stat()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return None


def certificate_of(options: TLSOptions) -> Certificate | None:
    """Return the certificate; None if TLS is off.

    Raises TLSError if a file is not valid any more.
    """
    return None if options.ssl_certfile is None else Certificate(options)
