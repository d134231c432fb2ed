"""Mix channels down to one."""

import numpy as np
import numpy.typing as npt

from headrace.frontend.audio.messages import AudioRejected

Samples = npt.NDArray[np.float32]
Block = tuple[int, Samples]  # the sample rate, and mono samples

_MAX_CHANNELS = 64
_RATES = range(1_000, 1_000_001)  # Hz
# Far beyond any real sample: powers of such samples are still finite in float32.
_MAX_SAMPLE = 1e6


def check_kind(rate: int, channels: int) -> None:
    """Raise AudioRejected if audio of that sample rate and that many channels is not accepted."""
    if rate not in _RATES:
        raise AudioRejected(f"the audio's sample rate of {rate} Hz is not supported")
    if not 0 < channels <= _MAX_CHANNELS:
        raise AudioRejected(f"the audio has {channels} channels, which is not supported")


def mix_down(samples: npt.NDArray[np.floating]) -> Samples:
    """Return the mean over the channels of [samples, channels].

    Values that are no finite numbers, which floating-point files may hold, become silence.
    """
    with np.errstate(all="ignore"):
        weights = np.full(samples.shape[1], 1 / samples.shape[1], samples.dtype)
        mono = (samples @ weights).astype(np.float32, copy=False)  # faster than mean()
    np.nan_to_num(mono, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(mono, -_MAX_SAMPLE, _MAX_SAMPLE, out=mono)
