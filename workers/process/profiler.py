"""A profile of a worker, from one call to another: what torch ran and when, or where Python was.

It is started and stopped between two steps, in the thread that makes them: torch's profiler sees
the operations of the thread that has started it. Compiled programs are one call to torch; each step
is marked, so that it is seen how long they take.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from headrace.protocol.common.atomic_write import replacing
from headrace.workers.process.stack_sampler import StackSampler

log = logging.getLogger(__name__)

STEP = "engine step"
Around = Callable[[], AbstractContextManager[Any]]


TORCH, STACKS = "torch", "stacks"  # kinds of profiles


class ProfileFailed(Exception):
    """The text is fit to be shown to an operator."""


class Recording(Protocol):
    """A profile that is being made. suffix: of its file."""

    suffix: str

    def stop(self) -> None: ...

    def export(self, path: str) -> None: ...


class _TorchRecording:
    suffix = ".json"

    def __init__(self, recording: Any) -> None:
        self._recording = recording
        recording.start()

    def stop(self) -> None:
        self._recording.stop()

    def export(self, path: str) -> None:
        self._recording.export_chrome_trace(path)


def start_stacks() -> tuple[Recording, Around]:
    """Begin a profile of all threads, by samples; nothing marks a step in it."""
    return StackSampler(), nullcontext


def start_torch() -> tuple[Recording, Around]:
    """Begin a profile of this thread; it, and what marks a step in it."""
    from torch import profiler  # the fake engine has no use for it
    from torch.cuda import is_available

    activities = [profiler.ProfilerActivity.CPU]
    if is_available():
        activities.append(profiler.ProfilerActivity.CUDA)
    recording = _TorchRecording(profiler.profile(activities=activities))
    return recording, lambda: profiler.record_function(STEP)


Begin = Callable[[], tuple[Recording, Around]]


@dataclass
class Profiler:
    """Used in the engine's thread only.

    folder: where traces are written. name: of the worker, and so of its traces.
    mark_steps: told what is to be around each step. begin: the kinds of profiles there are.
    """

    folder: Path | None
    name: str
    mark_steps: Callable[[Around], None]
    begin: Mapping[str, Begin]
    _recording: Recording | None = None

    def start(self, kind: str) -> bool:
        """Harmless while one is made. Whether one was begun."""
        if self.folder is None:
            raise ProfileFailed("no folder for profiles has been named")
        if kind not in self.begin:
            raise ProfileFailed("the fake engine runs nothing that could be profiled so")
        if self._recording is not None:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.error("no profile: %s", error)
            raise ProfileFailed("the folder for profiles cannot be written to") from None
        self._recording, around = self.begin[kind]()
        self.mark_steps(around)
        return True

    def stop(self) -> str | None:
        """Write the trace; the name of its file. Harmless when none is made: None."""
        recording, self._recording = self._recording, None
        if recording is None or self.folder is None:
            return None
        self.mark_steps(nullcontext)
        recording.stop()
        path = self._path(self.folder, recording.suffix)
        try:
            with replacing(path) as part:  # whoever watches the folder sees whole traces only
                recording.export(str(part))
        except (OSError, RuntimeError) as error:
            log.error("a profile is lost: %s", error)
            raise ProfileFailed("the profile could not be written") from None
        log.info("profile: %s", path)
        return path.name

    def _path(self, folder: Path, suffix: str) -> Path:
        """Never that of an earlier one, however soon it came."""
        stem = f"{self.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        path, number = folder / f"{stem}{suffix}", 1
        while path.exists():
            path, number = folder / f"{stem}-{number}{suffix}", number + 1
        return path
