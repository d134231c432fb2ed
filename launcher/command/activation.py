"""Socket activation: the HTTP socket that systemd has bound (sd_listen_fds(3))."""

import os
import socket
from collections.abc import MutableMapping

from headrace.launcher.command.options import OptionError
from headrace.protocol.config import PoolOptions

FIRST_FD = 3


def passed_socket(
    environment: MutableMapping[str, str] = os.environ, first_fd: int = FIRST_FD
) -> socket.socket | None:
    """Return the socket that was passed to this process; None if none was.

    The variables are removed from the environment, so that no child takes them for its own.

    Raises OptionError if what was passed is not one listening stream socket.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or count in ("", "0"):
        return None  # no socket, or one for a process that has started this one
    if count != "1":
        raise OptionError(
            f"LISTEN_FDS: {count} sockets were passed; there must be one ListenStream="
        )
    listener = _as_socket(first_fd)
    if listener is None:
        raise OptionError("LISTEN_FDS: what was passed is not a listening stream socket")
    return listener


def check_address(options: PoolOptions) -> None:
    """Raise OptionError if the options give an address, which the socket unit decides."""
    for name in ("host", "port", "uds"):
        if name in options.model_fields_set:
            raise OptionError(f"--{name}: the socket comes from systemd: see its ListenStream=")


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Return the URL at which clients reach a socket."""
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(address)}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{scheme}://{host}:{address[1]}"


def _as_socket(fd: int) -> socket.socket | None:
    try:
        listener = socket.socket(fileno=fd)
    except OSError:  # not open, or not a socket
        return None
    served = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listener.family not in served or listener.type != socket.SOCK_STREAM or not listens:
        listener.detach()
        return None
    listener.set_inheritable(False)
    return listener
