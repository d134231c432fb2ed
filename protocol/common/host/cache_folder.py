"""The folder in which Headrace keeps what it makes once."""

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """Return $HEADRACE_CACHE, else headrace/ in $XDG_CACHE_HOME, else in ~/.cache.

    None if none of them is set, and the user has no home folder.
    """
    own = os.environ.get("HEADRACE_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "headrace"
    except RuntimeError:  # a container's user without an entry in /etc/passwd, say
        return None
