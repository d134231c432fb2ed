"""`headrace top`: a pool in a terminal, refreshed every second."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from headrace.console.client import CA_VARIABLE, Client, Unreachable, key_of
from headrace.console.frame import frame
from headrace.console.snapshot import Snapshot, take

DEFAULT_URL = "http://127.0.0.1:8000"


def main(argv: Sequence[str]) -> int:
    """Show a pool until Ctrl-C; one frame with --once, or where there is no terminal.

    Returns the exit status.
    """
    args = _parser().parse_args(argv)
    view, console = PoolView(Client(args.url, key_of(), args.ca_file)), Console()
    if args.once or not console.is_terminal:
        console.print(view.next(time.monotonic()))
        return 1 if view.problem or not view.serves else 0
    try:
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                live.update(view.next(time.monotonic()), refresh=True)
                time.sleep(args.interval)
    except KeyboardInterrupt:
        return 0


class PoolView:
    """The current frame, which `next` refreshes.

    problem: why the last refresh failed. serves: whether the pool answered that it serves.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._last: Snapshot | None = None
        self._before: Snapshot | None = None
        self.problem = ""
        self.serves = False

    def next(self, now: float) -> RenderableType:
        """Take a new snapshot and render it; if that fails, the last one with its age."""
        try:
            snapshot = take(self._client, now)
        except Unreachable as error:
            self.problem = str(error)
        else:
            self._before, self._last, self.problem = self._last, snapshot, ""
            self.serves = snapshot.status not in ("unavailable", "stopping")
        if self._last is None:
            return Text(self.problem, style="bold red")
        problem = f"{self.problem}; this is {now - self._last.at:.0f} s old" if self.problem else ""
        return frame(self._last, self._before, self._client.url, problem)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headrace top",
        description="Show a running pool. HEADRACE_ADMIN_KEY or HEADRACE_API_KEY is its key.",
    )
    url = os.environ.get("HEADRACE_URL", DEFAULT_URL)
    parser.add_argument(
        "--url", default=url, help=f"URL of the server (HEADRACE_URL, {DEFAULT_URL})"
    )
    ca_file = os.environ.get(CA_VARIABLE) or None
    parser.add_argument(
        "--ca-file",
        type=Path,
        default=ca_file,
        help=f"certificates that may sign an https server's ({CA_VARIABLE}, the system's)",
    )
    parser.add_argument("--interval", type=_seconds, default=1.0, help="seconds between frames (1)")
    parser.add_argument(
        "--once", action="store_true", help="show one frame and exit, as without a terminal"
    )
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
