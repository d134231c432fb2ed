"""Report while one call takes long, so that its process is not taken for one that hangs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A call that should take longer is reported so often while it runs, for at most so many times as
# long as it should take: it may take longer than expected, and machines have other work.
_REPORT_S = 1.0
_PATIENCE = 20


@contextmanager
def reporting(report: Callable[[], None], expected_s: float) -> Iterator[None]:
    """Report while something runs that takes long; no more if it takes far too long.

    expected_s: how long it should take, in seconds.
    """
    if expected_s < _REPORT_S:
        yield
        return
    ended = threading.Event()

    def run() -> None:
        until = time.monotonic() + _PATIENCE * expected_s
        while not ended.wait(_REPORT_S) and time.monotonic() < until:
            report()

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
