"""The HTTP socket that all frontends accept on."""

import errno
import os
import socket
import stat
from pathlib import Path

from headrace.launcher.command.options import OptionError
from headrace.protocol.common.file_lock import FileLock, LockHeld
from headrace.protocol.config import PoolOptions

BACKLOG = 4096


def bind_http(options: PoolOptions) -> tuple[socket.socket, str]:
    """Bind the socket; return it and its URL.

    It does not listen yet: while a model is being prepared, clients are better refused than left
    waiting.

    Raises OptionError if the address cannot be bound.
    """
    if options.uds is not None:
        return _bind_unix(options.uds), f"unix:{options.uds}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except socket.gaierror as error:
        raise OptionError(f"--host: {options.host}: {error.strerror}") from error
    except OSError as error:
        flag = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        where = f"{options.host}:{options.port}"
        reason = (error.strerror or str(error)).split(" (while")[0]
        raise OptionError(f"{flag}: cannot listen on {where}: {reason}") from error
    host = f"[{options.host}]" if ":" in options.host else options.host
    return listener, f"{options.scheme}://{host}:{listener.getsockname()[1]}"


def remove_unix(path: Path) -> None:
    """Remove the file of a Unix socket that this process has bound, and then its lock file."""
    path.unlink(missing_ok=True)
    _lock_file(path).unlink(missing_ok=True)


def _bind_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _lock(path)
        try:
            if _is_stale(path):
                path.unlink()
            listener.bind(str(path))
        except OSError:
            _lock_file(path).unlink(missing_ok=True)
            raise
    except OSError as error:
        listener.close()
        raise OptionError(f"--uds: cannot listen on {path}: {error.strerror or error}") from error
    return listener


def listen(listener: socket.socket) -> None:
    """Let clients connect. Raises OptionError if another process listens there meanwhile."""
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        raise OptionError(f"--port: cannot listen: {error.strerror}") from error


def _lock(path: Path) -> None:
    """Lock a socket's path for as long as this process lives.

    While it prepares its model it does not listen, and the socket would look like one that a killed
    process has left. Raises OSError if another process holds the lock.
    """
    try:
        FileLock(_lock_file(path), blocking=False)
    except LockHeld as error:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from error


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _is_stale(path: Path) -> bool:
    """Return whether a path is a socket on which no process listens; the lock must be held."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False
