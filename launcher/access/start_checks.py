"""Check at the start who will be able to use the server."""

import ipaddress
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

from headrace.launcher.command.option_errors import OptionError
from headrace.protocol.access_options import AccessOptions
from headrace.protocol.api_keys import ApiKey
from headrace.protocol.common import key_file
from headrace.protocol.common.key_file import BadKeyFile

log = logging.getLogger("headrace.launcher")


def read_key_file(options: AccessOptions) -> tuple[ApiKey, ...]:
    """Return the keys of --api-key-file. Raises OptionError, naming the entry, if it is bad."""
    if options.api_key_file is None:
        return ()
    try:
        keys = key_file.read(options.api_key_file)
        key_file.check_distinct((*options.api_keys, *options.admin_keys), keys)
    except BadKeyFile as error:
        raise OptionError(f"--api-key-file: {options.api_key_file}: {error}") from error
    return keys


def keep_key_file(options: AccessOptions, run_dir: Path) -> None:
    """Keep the keys of the file for frontends. Raises OptionError if it is bad."""
    keys = read_key_file(options)
    if options.api_key_file is not None:
        key_file.save_last_good(run_dir, keys)


def check_exposure(options: AccessOptions, *listeners: socket.socket) -> None:
    """Raise OptionError if others can reach the server without a key.

    --insecure makes that a warning. Sockets tell where they are bound, whatever a name means.
    """
    if options.needs_key:
        return
    for listener in listeners:
        if is_local(listener):
            continue
        address = listener.getsockname()[0]
        if not options.insecure:
            raise OptionError(
                f"--host: other machines can reach {address}, and there is no key: give --api-key, "
                "--api-key-file or HEADRACE_API_KEY, or say --insecure"
            )
        operators = ", and operate it (--enable-admin)" if options.enable_admin else ""
        log.warning(
            "INSECURE: every machine that reaches %s may use this server%s", address, operators
        )


def is_local(listener: socket.socket) -> bool:
    """Return whether only processes of this machine can reach a socket."""
    if listener.family == socket.AF_UNIX:
        return True
    address = ipaddress.ip_address(str(listener.getsockname()[0]).partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (address if mapped is None else mapped).is_loopback


def access_notices(options: AccessOptions, file_keys: tuple[ApiKey, ...]) -> Iterator[str]:
    """Yield lines for the log about keys that open less than the operator may think."""
    if not options.needs_key:
        return
    has_admin = bool(options.admin_keys) or any(key.is_admin for key in file_keys)
    if options.enable_admin and not has_admin:
        yield "--enable-admin: no key opens the operators' routes: give --admin-key"
    if has_admin and not options.enable_admin:
        yield "admin keys open no more than others: --enable-admin is not given"
    if options.insecure:
        yield "--insecure changes nothing: there are keys"
    if options.api_key_file is not None and _is_readable_by_all(options.api_key_file):
        yield "--api-key-file: every user of this machine can read the file: see its mode"


def _is_readable_by_all(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o004)
    except OSError:
        return False
