"""Cut long audio at quiet places into windows that a model can take."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.frontend.audio.mono import Samples

_FRAMES_PER_S = 100
# Of a frame, as the variance of its samples (so that an offset is silence, too): -66 dB of full
# scale. The noise of 16-bit recordings is some 25 dB below, quiet speech 10 dB above.
_SILENCE = 2.5e-7
_MIN_SOUND = 3  # frames: less, in a whole window, is a click
_LONG_SILENCE_S = 2.0  # at the start of a window, is left out of it
_MARGIN_S = 0.5  # of silence that stays before sound
_SEARCHED = 1 / 3  # of a window, at its end
_PAUSE_S = 0.3
_LOUD_PERCENTILE = 95  # of a window's frames: speech, and not its pauses
_PAUSE_DB = 35.0  # below which pauses are all alike
_LATENESS_DB_PER_S = 1.0  # what a cut that is a second earlier must be quieter by
_MIN_POWER = 1e-10


@dataclass(frozen=True)
class Cut:
    """A window of a recording."""

    start_s: float
    samples: Samples


class Cutter:
    """Takes a recording block by block, and hands each window on as soon as its end is known.

    A recording that fits is one window, as it is. Of others, windows begin at sound. A window
    without any sound is none.
    """

    def __init__(self, sample_rate: int, window_s: int) -> None:
        self._rate = sample_rate
        self._frame = sample_rate // _FRAMES_PER_S
        self._buffer = np.empty(window_s * _FRAMES_PER_S * self._frame, np.float32)
        self._count = 0  # samples in the buffer
        self._start = 0  # samples of the recording before it

    @property
    def duration_s(self) -> float:
        """The length of what has been fed."""
        return (self._start + self._count) / self._rate

    def feed(self, samples: Samples) -> Iterator[Cut]:
        while len(samples):
            if self._count == len(self._buffer):
                yield from self._cut()
            taken = samples[: len(self._buffer) - self._count]
            self._buffer[self._count : self._count + len(taken)] = taken
            self._count += len(taken)
            samples = samples[len(taken) :]

    def end(self) -> Iterator[Cut]:
        if self._count and np.count_nonzero(self._powers() > _SILENCE) >= _MIN_SOUND:
            yield from self._take(self._count)

    def _cut(self) -> Iterator[Cut]:
        """Make room in the full buffer, by a window or by leaving silence out."""
        powers = self._powers()
        sound = np.flatnonzero(powers > _SILENCE)
        margin = round(_MARGIN_S * _FRAMES_PER_S)
        if len(sound) < _MIN_SOUND:
            self._drop((len(powers) - margin) * self._frame)
        elif sound[0] > _LONG_SILENCE_S * _FRAMES_PER_S:
            self._drop((int(sound[0]) - margin) * self._frame)
        else:
            yield from self._take(_quietest(powers) * self._frame)

    def _take(self, count: int) -> Iterator[Cut]:
        yield Cut(self._start / self._rate, self._buffer[:count].copy())
        self._drop(count)

    def _drop(self, count: int) -> None:
        self._buffer[: self._count - count] = self._buffer[count : self._count].copy()
        self._count -= count
        self._start += count

    def _powers(self) -> npt.NDArray[np.float32]:
        """Return each frame's variance. Samples at the end that fill no frame do not count."""
        frames = self._buffer[: self._count // self._frame * self._frame]
        powers: npt.NDArray[np.float32] = frames.reshape(-1, self._frame).var(axis=1)
        return powers


def _quietest(powers: npt.NDArray[np.float32]) -> int:
    """Return the frame before which to cut: amid the quietest pause near the end."""
    levels = 10 * np.log10(powers + _MIN_POWER)
    quiet = np.percentile(levels, _LOUD_PERCENTILE) - _PAUSE_DB
    first = round(len(levels) * (1 - _SEARCHED))
    half = round(_PAUSE_S * _FRAMES_PER_S / 2)
    weights = np.bartlett(2 * half + 1)  # the middle of the pause counts most
    means = np.convolve(np.maximum(levels[first:], quiet), weights / weights.sum(), mode="valid")
    lateness = np.arange(len(means)) * (_LATENESS_DB_PER_S / _FRAMES_PER_S)
    return first + half + int(np.argmin(means - lateness))
