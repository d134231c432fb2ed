"""Show how far a preparation is: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.protocol.logs.set_up import writes_json

log = logging.getLogger("headrace.prepare")


class Stages:
    """The progress of a preparation in stages, whose weights sum up to `total`."""

    def __init__(self, title: str, total: int) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        self._title = title
        self._bar = tqdm(
            total=total,
            desc=title,
            disable=writes_json() or not sys.stderr.isatty(),
            bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}{postfix}",
        )

    @contextmanager
    def stage(self, name: str, weight: int = 1) -> Iterator[None]:
        started_s = time.monotonic()
        self._bar.set_postfix_str(name)
        yield
        self._bar.update(weight)
        line = f"{self._title}: {name}: {time.monotonic() - started_s:.1f} s"
        if writes_json():
            log.info("%s", line)
        elif self._bar.disable:
            print(line, file=sys.stderr)

    def note(self, line: str) -> None:
        """Show a line beside the progress."""
        if writes_json():
            log.warning("%s: %s", self._title, line)
        else:
            self._bar.write(f"{self._title}: {line}", file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
