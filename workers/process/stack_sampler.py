"""Sample the Python stacks of this process's threads a hundred times a second, like py-spy.

Time in kernels and torch shows as the Python call into them. Costs one percent.
"""

import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL_S = 0.01
# A profile of an hour must fit in memory.
MAX_STACKS = 50_000
MAX_FRAMES = 200
OTHERS = "others"


class StackSampler:
    """Samples all threads from its creation until `stop`.

    `export` writes folded stacks for flamegraph.pl, inferno and speedscope, one a line:
    "thread;outermost;...;innermost count".
    """

    suffix = ".folded"

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._stacks: Counter[tuple[str, ...]] = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="profiler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def export(self, path: str) -> None:
        """Write the profile. Raises OSError if that is not possible."""
        lines = (f"{';'.join(stack)} {count}\n" for stack, count in self._stacks.most_common())
        Path(path).write_text("".join(lines))

    def _run(self) -> None:
        own = threading.get_ident()
        while not self._over.wait(self._interval_s):
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in sys._current_frames().items():
                if ident != own:
                    self._note(names.get(ident, str(ident)), frame)

    def _note(self, thread: str, frame: FrameType) -> None:
        stack = (thread, *_frames(frame))
        is_full = len(self._stacks) >= MAX_STACKS and stack not in self._stacks
        self._stacks[(thread, OTHERS) if is_full else stack] += 1


def _frames(frame: FrameType | None) -> list[str]:
    """Return the frames from the outermost on, with file names without folders."""
    frames: list[str] = []
    while frame is not None and len(frames) < MAX_FRAMES:
        code = frame.f_code
        file = code.co_filename.rpartition("/")[2]
        frames.append(f"{code.co_qualname} ({file}:{frame.f_lineno})".replace(";", ","))
        frame = frame.f_back
    return frames[::-1]
