"""Keep the files that a pool makes for itself from other users, whatever the operator's umask is.

Files in the user's caches get the permissions that they would have without this.
"""

import contextlib
import os
from collections.abc import Iterator

PRIVATE = 0o077

_users: int | None = None


def keep_files_private() -> None:
    """Let this process, and those that it starts, make files for this user alone."""
    global _users
    before = os.umask(PRIVATE)
    if _users is None:
        _users = before


@contextlib.contextmanager
def users_umask() -> Iterator[None]:
    """Make files as the operator's umask says. For one thread alone."""
    if _users is None:
        yield
        return
    os.umask(_users)
    try:
        yield
    finally:
        os.umask(PRIVATE)
