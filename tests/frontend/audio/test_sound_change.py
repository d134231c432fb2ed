"""The sound of speech changes from syllable to syllable; that of noise does not, however loud."""

import numpy as np
import pytest
import soundfile

from headrace.frontend.audio.log_mel import log_mel
from headrace.frontend.audio.messages import AudioFormat
from headrace.frontend.audio.sound_change import sound_change_db
from headrace.frontend.speech.guards import is_steady
from tests.frontend.audio.sounds import RATE, Samples, noise, tone
from tests.speech_models import SPEECH

SPOKEN = sorted(SPEECH.glob("**/*.opus"))


def change_db(samples: Samples, mel_bins: int = 80) -> float:
    format = AudioFormat(mel_bins)
    return sound_change_db(log_mel(samples, format), format, len(samples) / RATE)


def coloured(duration_s: float, power: float) -> Samples:
    spectrum = np.fft.rfft(noise(duration_s))
    spectrum /= np.maximum(1, np.arange(len(spectrum))) ** power
    values = np.fft.irfft(spectrum, round(duration_s * RATE))
    found: Samples = (0.1 * values / values.std()).astype(np.float32)
    return found


def clicks(duration_s: float, count: int) -> Samples:
    values = noise(duration_s, level=1e-3)
    shape = np.exp(-np.arange(60) / 15).astype(np.float32)
    for start in np.random.default_rng(1).integers(0, len(values) - 60, count):
        values[start : start + 60] += shape * noise(60 / RATE, level=0.3, seed=int(start))
    return values


def breath(duration_s: float) -> Samples:
    time = np.arange(round(duration_s * RATE)) / RATE
    found: Samples = (noise(duration_s) * np.sin(2 * np.pi * 0.3 * time) ** 2).astype(np.float32)
    return found


@pytest.mark.parametrize("mel_bins", [80, 128])
@pytest.mark.parametrize("duration_s", [0.2, 3.0, 30.0])
def test_noise_is_steady(duration_s: float, mel_bins: int) -> None:
    for level in (0.003, 0.3):
        assert is_steady(change_db(noise(duration_s, level=level), mel_bins))
    for power in (0.5, 1.0):
        assert is_steady(change_db(coloured(duration_s, power), mel_bins))
    assert is_steady(change_db(tone(duration_s), mel_bins))


def test_what_grows_louder_and_softer_is_steady() -> None:
    for samples in (clicks(15, 30), clicks(15, 8000), breath(15)):
        assert is_steady(change_db(samples))


@pytest.mark.parametrize("path", SPOKEN, ids=lambda path: path.stem)
def test_speech_is_not(path: object) -> None:
    samples, rate = soundfile.read(path, dtype="float32")
    step = rate // RATE
    speech = samples[: len(samples) // step * step].reshape(-1, step).mean(axis=1)
    plain = change_db(speech)
    assert plain > 3
    assert change_db(speech * np.float32(0.03)) == pytest.approx(plain, rel=0.1)
    level = float(np.sqrt(np.mean(speech**2))) * 10 ** (-10 / 20)
    assert not is_steady(change_db(speech + noise(len(speech) / RATE, level=level)[: len(speech)]))
    # Three seconds of speech in half a minute of silence and noise.
    long = noise(28, level=1e-3)
    long[12 * RATE :][: len(speech[: 3 * RATE])] += speech[: 3 * RATE]
    assert not is_steady(change_db(long))


def test_windows_of_a_few_frames() -> None:
    for count in (1, 100, 161, 480):
        assert change_db(noise(1)[:count]) < 5
