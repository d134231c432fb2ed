"""The features of Whisper models: logarithms of the energies in mel bands.

"Robust Speech Recognition via Large-Scale Weak Supervision" (Radford et al., 2022), section 2.2;
the bands are those of Slaney's Auditory Toolbox (1998).
"""

import functools

import numpy as np
import numpy.typing as npt

from headrace.frontend.audio.messages import AudioFormat
from headrace.frontend.audio.mono import Samples

_MIN_ENERGY = 1e-10
_RANGE = 8.0  # powers of ten below the loudest value, which quieter ones are raised to
_BATCH = 256  # frames at a time: they stay in the processor's cache

# Slaney's scale is linear up to 1 kHz, and logarithmic above.
_HZ_PER_MEL = 200 / 3
_LOG_FROM_HZ = 1000.0
_LOG_FROM_MEL = _LOG_FROM_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27

_Floats = npt.NDArray[np.float64]


def log_mel(samples: Samples, format: AudioFormat) -> Samples:
    """Return the features of one window, [mel bins, frames], as if it had silence at its end.

    Raises ValueError if the samples are no window, which transformers' extractor would take.
    """
    total = format.window_s * format.sample_rate
    if samples.ndim != 1 or samples.dtype != np.float32 or not 0 < len(samples) <= total:
        raise ValueError(f"no window: {samples.dtype} of shape {samples.shape}")
    frames = total // format.hop
    padded = _pad(samples, total, format.n_fft // 2)
    # Frames after these have nothing but silence.
    used = min(frames, -(-(len(samples) + format.n_fft // 2) // format.hop))
    views = np.lib.stride_tricks.sliding_window_view(padded, format.n_fft)[:: format.hop][:used]
    window = _hann(format.n_fft)
    bands = mel_bands(format.mel_bins, format.n_fft, format.sample_rate)
    features = np.full((format.mel_bins, frames), np.log10(_MIN_ENERGY), np.float32)
    for first in range(0, used, _BATCH):
        spectrum = np.fft.rfft(views[first : first + _BATCH] * window)
        energies = (spectrum.real**2 + spectrum.imag**2) @ bands
        logs = np.log10(np.maximum(energies, _MIN_ENERGY))
        features[:, first : first + len(logs)] = logs.T
    np.maximum(features, features.max() - _RANGE, out=features)
    return np.divide(features + 4, 4, out=features)


def _pad(samples: Samples, total: int, edge: int) -> _Floats:
    """Add silence up to the window's end, then mirror the window at both of its edges."""
    padded = np.zeros(total + 2 * edge)
    padded[edge : edge + len(samples)] = samples
    padded[:edge] = padded[2 * edge : edge : -1]
    padded[edge + total :] = padded[edge + total - 2 : total - 2 : -1]
    return padded


@functools.cache
def _hann(size: int) -> _Floats:
    return np.hanning(size + 1)[:-1]


@functools.cache
def mel_bands(count: int, n_fft: int, sample_rate: int) -> _Floats:
    """Return the weight of each frequency in each band, [frequencies, bands].

    Bands are triangles, evenly spaced in mel up to half the sample rate, each of the same area.
    """
    frequencies = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    corners = _mel_to_hz(np.linspace(0, _hz_to_mel(sample_rate / 2), count + 2))
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies[:, None] - low) / (centre - low)
    falling = (high - frequencies[:, None]) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (high - low))


def _hz_to_mel(hz: float) -> float:
    if hz < _LOG_FROM_HZ:
        return hz / _HZ_PER_MEL
    return float(_LOG_FROM_MEL + np.log(hz / _LOG_FROM_HZ) / _LOG_STEP)


def _mel_to_hz(mels: _Floats) -> _Floats:
    above = _LOG_FROM_HZ * np.exp(_LOG_STEP * (mels - _LOG_FROM_MEL))
    return np.where(mels < _LOG_FROM_MEL, mels * _HZ_PER_MEL, above)
