"""Measure how much the sound of a window changes, as speech does from sound to sound.

Syllables follow each other some four times a second (Greenberg et al., "Temporal properties of
spontaneous speech", 2003), and each has a spectrum of its own. What grows louder and softer as a
whole, like breath or applause, does not change in this sense.
"""

import numpy as np
import numpy.typing as npt

from headrace.frontend.audio.messages import AudioFormat
from headrace.frontend.audio.mono import Samples

_STRETCH_S = 3.0  # the one that changes most counts: the rest of a window may be noise
_GROUPS = 16  # of bands
_SPEECH_SHARE = 0.8  # of the bands, the lower ones
_FASTEST_HZ, _SLOWEST_HZ = 10.0, 1.5  # of syllables
_DB = 40.0  # of a step of 1 of features, which are log10(energy) / 4 and a constant

_Floats = npt.NDArray[np.floating]


def sound_change_db(features: Samples, format: AudioFormat, duration_s: float) -> float:
    """Return by how many decibels the shape of the spectrum changes at the rate of syllables.

    Noise of any colour, hum, tones, clicks and rain have at most 1.5, speech 5 dB above noise 1.9
    and more.
    """
    frame_s = format.hop / format.sample_rate
    frames = max(1, min(features.shape[1], int(duration_s / frame_s)))
    shapes = _shapes(features[:, :frames])
    stretch = round(_STRETCH_S / frame_s)
    last = max(0, frames - stretch)
    starts = [*range(0, last, stretch // 2), last]
    return max(_change(shapes[:, start : start + stretch], frame_s) for start in starts)


def _shapes(features: Samples) -> _Floats:
    """Return the levels of groups of bands over the mean of all groups, [groups, frames]."""
    each = max(1, int(len(features) * _SPEECH_SHARE) // _GROUPS)
    used = features[: len(features) // each * each][: each * _GROUPS] * _DB
    levels = used.reshape(-1, each, used.shape[1]).mean(axis=1)
    shapes: _Floats = levels - levels.mean(axis=0)
    return shapes


def _change(shapes: _Floats, frame_s: float) -> float:
    """Return the median over the groups of the root mean square of their change."""
    count = shapes.shape[1]
    window = np.hanning(count + 2)[1:-1]
    window /= np.sqrt(np.mean(window**2))
    changes = (shapes - shapes.mean(axis=1, keepdims=True)) * window
    spectrum = np.fft.rfft(changes, axis=1)
    hz = np.fft.rfftfreq(count, frame_s)
    powers = np.abs(spectrum[:, (hz >= _SLOWEST_HZ) & (hz <= _FASTEST_HZ)]) ** 2
    return float(np.median(np.sqrt(2 * powers.sum(axis=1)) / count))
