"""Asks a launcher for a rolling restart and waits for its end, for scripts/pool.sh."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace.console.client import Client, Unreachable, key_of
from headrace.console.find_launcher import launcher_pid

_POLL_S = 0.5
# A server that does not answer for so long has gone; frontends are replaced meanwhile.
_SILENT_S = 60.0
_ENDED = ("done", "failed")


def main(words: Sequence[str]) -> int:
    """Run with the run directory or pid, the URL, and "" or a file of certificates.

    Returns the exit status: 0 when all has been replaced.
    """
    given, url, ca_file = words
    client = Client(url, key_of(), Path(ca_file) if ca_file else None)
    pid = launcher_pid(given)
    try:
        if pid is None:
            raise Unreachable(f"no launcher runs there: {given}")
        last = _number(_reload(client))
        os.kill(pid, signal.SIGHUP)
        reload = _wait(client, last)
    except (Unreachable, OSError) as error:
        print(f"pool.sh: error: {error}", file=sys.stderr)
        return 1
    if reload["phase"] == "done":
        print(f"reload {reload['number']}: done")
        return 0
    print(f"pool.sh: error: the reload has failed: {reload.get('reason')}", file=sys.stderr)
    return 1


def _wait(client: Client, last: int) -> dict[str, Any]:
    """Return the first reload after the one of a number when it has ended.

    Raises Unreachable if the server does not answer for long.
    """
    heard_at = time.monotonic()
    while True:
        time.sleep(_POLL_S)
        try:
            reload = _reload(client)
            heard_at = time.monotonic()
        except Unreachable:
            if time.monotonic() - heard_at > _SILENT_S:
                raise
            continue
        if _number(reload) > last and reload["phase"] in _ENDED:
            return reload


def _reload(client: Client) -> dict[str, Any]:
    """Return the last reload; empty if there was none. Raises Unreachable."""
    health = client.json("/health?verbose")
    if "groups" not in health:
        raise Unreachable(f"{client.url} answers, but not as this server does")
    return health.get("reload") or {}


def _number(reload: dict[str, Any]) -> int:
    return int(reload.get("number", 0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
