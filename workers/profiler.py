"""A profile of the engine's thread, from one call to another: what torch ran, and when.

It is started and stopped between two steps, in the thread that makes them: torch's profiler sees
the operations of the thread that has started it. Compiled programs are one call to torch; each step
is marked, so that it is seen how long they take.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger(__name__)

STEP = "engine step"
Around = Callable[[], AbstractContextManager[Any]]


class ProfileFailed(Exception):
    """The text is fit to be shown to an operator."""


class Recording(Protocol):
    """A profile that is being made."""

    def stop(self) -> None: ...

    def export_chrome_trace(self, path: str) -> None: ...


def start_torch() -> tuple[Recording, Around]:
    """Begin a profile of this thread; it, and what marks a step in it."""
    from torch import profiler  # the fake engine has no use for it
    from torch.cuda import is_available

    activities = [profiler.ProfilerActivity.CPU]
    if is_available():
        activities.append(profiler.ProfilerActivity.CUDA)
    recording = profiler.profile(activities=activities)
    recording.start()
    return recording, lambda: profiler.record_function(STEP)


@dataclass
class Profiler:
    """Used in the engine's thread only.

    folder: where traces are written. name: of the worker, and so of its traces.
    mark_steps: told what is to be around each step.
    """

    folder: Path | None
    name: str
    mark_steps: Callable[[Around], None]
    begin: Callable[[], tuple[Recording, Around]] | None = start_torch
    _recording: Recording | None = None

    def start(self) -> bool:
        """Harmless while one is made. Whether one was begun."""
        if self.folder is None:
            raise ProfileFailed("no folder for profiles has been named")
        if self.begin is None:
            raise ProfileFailed("the fake engine runs nothing that could be profiled")
        if self._recording is not None:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.error("no profile: %s", error)
            raise ProfileFailed("the folder for profiles cannot be written to") from None
        self._recording, around = self.begin()
        self.mark_steps(around)
        return True

    def stop(self) -> str | None:
        """Write the trace; the name of its file. Harmless when none is made: None."""
        recording, self._recording = self._recording, None
        if recording is None or self.folder is None:
            return None
        self.mark_steps(nullcontext)
        recording.stop()
        path = self._path(self.folder)
        begun = path.with_suffix(".part")  # whoever watches the folder sees whole traces only
        try:
            recording.export_chrome_trace(str(begun))
            os.replace(begun, path)
        except (OSError, RuntimeError) as error:
            begun.unlink(missing_ok=True)
            log.error("a profile is lost: %s", error)
            raise ProfileFailed("the profile could not be written") from None
        log.info("profile: %s", path)
        return path.name

    def _path(self, folder: Path) -> Path:
        """Never that of an earlier one, however soon it came."""
        stem = f"{self.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        path, number = folder / f"{stem}.json", 1
        while path.exists():
            path, number = folder / f"{stem}-{number}.json", number + 1
        return path
