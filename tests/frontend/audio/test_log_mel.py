"""Features are those of transformers' extractor."""

from typing import Any

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from headrace.frontend.audio.log_mel import log_mel
from headrace.frontend.audio.messages import AudioFormat
from tests.frontend.audio.sounds import RATE, Samples, noise, tone

WINDOW = 30 * RATE
SOUNDS: dict[str, Samples] = {
    "noise": noise(30),
    "nearly whole": noise(29.99),
    "edge of the mirror": noise(30)[: WINDOW - 199],
    "tone": tone(30),
    "sweep": np.sin(300 * np.arange(5 * RATE) ** 2 / RATE**2).astype(np.float32),
    "silence": np.zeros(RATE, np.float32),
    "speech-like": np.concatenate([noise(2), np.zeros(RATE, np.float32), noise(1, level=1e-3)]),
    "short": noise(0.01),
    "a sample": np.ones(1, np.float32),
    "offset": np.full(RATE, 0.25, np.float32),
    "beyond full scale": noise(2, level=10.0),
}


@pytest.fixture(scope="module", params=[80, 128])
def extractor(request: pytest.FixtureRequest) -> Any:
    make: Any = WhisperFeatureExtractor
    return make(feature_size=request.param)


@pytest.mark.parametrize("kind", SOUNDS)
def test_features_are_transformers(extractor: Any, kind: str) -> None:
    """Its way through numpy computes in float64. That through torch, which it takes where torch is
    installed, computes in float32 and is as far from the former as from ours."""
    samples = SOUNDS[kind]
    features = log_mel(samples, AudioFormat(extractor.feature_size))
    padded = np.zeros(WINDOW, np.float32)
    padded[: len(samples)] = samples
    (exact,) = extractor._np_extract_fbank_features(padded[None], "cpu")
    assert features.shape == (extractor.feature_size, 3000)
    assert features.dtype == np.float32
    assert features.flags.c_contiguous
    assert np.abs(features - exact).max() < 1e-6
    rounded = extractor(samples, sampling_rate=RATE, return_tensors="np").input_features[0]
    by_torch = np.abs(rounded - exact).max()
    assert np.abs(features - rounded).max() < 1e-5 + by_torch
    assert by_torch < 1e-4


def test_other_windows() -> None:
    make: Any = WhisperFeatureExtractor
    extractor = make(chunk_length=10, n_fft=512, hop_length=128)
    format = AudioFormat(80, window_s=10, hop=128, n_fft=512)
    (exact,) = extractor._np_extract_fbank_features(noise(10)[None], "cpu")
    assert np.abs(log_mel(noise(10), format) - exact).max() < 1e-6


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((RATE, 2), np.float32),
        np.zeros(RATE, np.int16),
        np.zeros(0, np.float32),
        np.zeros(WINDOW + 1, np.float32),
    ],
)
def test_what_is_no_window_raises(samples: Samples) -> None:
    with pytest.raises(ValueError, match="no window"):
        log_mel(samples, AudioFormat(80))
