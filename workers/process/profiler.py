"""Profile a worker from one call to another: torch's operations, or stacks of all Python threads.

Profiles start and stop between two steps, in the engine's thread: torch's profiler records the
operations of the thread that has started it. Compiled programs are a single call to torch; each
step is annotated to show how long it takes.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from headrace.protocol.call_results import ProfileStarted, ProfileStopped
from headrace.protocol.calls import ProfileKind, StartProfile, StopProfile
from headrace.protocol.common.atomic_write import replacing
from headrace.workers.errors import CallFailed
from headrace.workers.process.call_handlers import CallHandlers, Reply
from headrace.workers.process.engine_memory import EngineMemory
from headrace.workers.process.engine_operations import EngineOperations
from headrace.workers.process.engine_thread import OperationDone
from headrace.workers.process.stack_sampler import StackSampler

log = logging.getLogger("headrace.worker")

STEP = "engine step"
Around = Callable[[], AbstractContextManager[Any]]


class ProfileFailed(CallFailed):
    """A profile could not be made. The text is fit to be shown to an operator."""


class ProfileRecording(Protocol):
    """A profile in progress. suffix: of its file."""

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


def start_stacks() -> tuple[ProfileRecording, Around]:
    """Begin a sampled profile of all threads, without annotations of steps."""
    return StackSampler(), nullcontext


def start_torch() -> tuple[ProfileRecording, Around]:
    """Begin a profile of this thread. Returns it, and what annotates a step in it."""
    from torch import profiler  # the fake engine does not need torch
    from torch.cuda import is_available

    activities = [profiler.ProfilerActivity.CPU]
    if is_available():
        activities.append(profiler.ProfilerActivity.CUDA)
    recording = _TorchRecording(profiler.profile(activities=activities))
    return recording, lambda: profiler.record_function(STEP)


Begin = Callable[[], tuple[ProfileRecording, Around]]


@dataclass
class Profiler:
    """Makes profiles. Used in the engine's thread only.

    folder: of the traces. name: of the worker, which begins the names of its traces.
    mark_steps: gets what each step must run in. begin: by the kinds of profiles.
    """

    folder: Path | None
    name: str
    mark_steps: Callable[[Around], None]
    begin: Mapping[ProfileKind, Begin]
    _recording: ProfileRecording | None = None

    def start(self, kind: ProfileKind) -> bool:
        """Begin a profile; return false if one is in progress. Raises ProfileFailed."""
        if self.folder is None:
            raise ProfileFailed("the server has no folder for profiles")
        if kind not in self.begin:
            raise ProfileFailed("the fake engine runs nothing that could be profiled so")
        if self._recording is not None:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.error("cannot write profiles: %s", error)
            raise ProfileFailed("the folder for profiles cannot be written to") from None
        self._recording, around = self.begin[kind]()
        self.mark_steps(around)
        return True

    def stop(self) -> str | None:
        """Write the trace and return its file name; None if no profile is in progress.

        Raises ProfileFailed.
        """
        recording, self._recording = self._recording, None
        if recording is None or self.folder is None:
            return None
        self.mark_steps(nullcontext)
        recording.stop()
        path = self._path(self.folder, recording.suffix)
        try:
            with replacing(path) as part:  # the folder shows complete traces only
                recording.export(str(part))
        except (OSError, RuntimeError) as error:
            log.error("cannot write a profile: %s", error)
            raise ProfileFailed("the profile could not be written") from None
        log.info("profile written to %s", path)
        return path.name

    def _path(self, folder: Path, suffix: str) -> Path:
        """Return a path that no earlier profile has."""
        stem = f"{self.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        path, number = folder / f"{stem}{suffix}", 1
        while path.exists():
            path, number = folder / f"{stem}-{number}{suffix}", number + 1
        return path


class Profiling:
    """Executes the calls that profile a worker. No clock of its own.

    max_s: after so long a profile ends by itself, for it grows with every step.
    """

    def __init__(self, operations: EngineOperations, profiler: Profiler, max_s: float) -> None:
        self._operations, self._profiler, self._max_s = operations, profiler, max_s
        self._now = 0.0
        self._ends_at: float | None = None

    def add_handlers(self, handlers: CallHandlers) -> None:
        """Execute the calls that start and stop profiles."""
        handlers.add(StartProfile, self._start)
        handlers.add(StopProfile, self._stop)

    def tick(self, now: float) -> None:
        """End a profile whose time is over; call it often."""
        self._now = now
        if self._ends_at is not None and now >= self._ends_at:
            log.warning("ending the profile after %g s", self._max_s)
            self._ends_at = None
            self._operations.operate(lambda memory: self._profiler.stop(), lambda done: None)

    def _start(self, call: StartProfile, reply: Reply) -> None:
        def act(memory: EngineMemory) -> bool:
            return self._profiler.start(call.mode)

        def then(done: OperationDone) -> None:
            if done.value:
                self._ends_at = self._now + self._max_s
            if done.error is None:
                reply(ProfileStarted(bool(done.value)))
            else:
                reply.fail(done.error)

        self._operations.operate(act, then)

    def _stop(self, call: StopProfile, reply: Reply) -> None:
        def act(memory: EngineMemory) -> str | None:
            return self._profiler.stop()

        def then(done: OperationDone) -> None:
            self._ends_at = None
            if done.error is None:
                reply(ProfileStopped(done.value))
            else:
                reply.fail(done.error)

        self._operations.operate(act, then)
