"""Recordings, and the files of all kinds that hold them."""

import io
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt
import soundfile

Samples = npt.NDArray[np.float32]

RATE = 16_000
TONE_HZ = 440


def tone(duration_s: float, rate: int = RATE, channels: int = 1) -> Samples:
    """Return a tone, at half of full scale, [samples] or [samples, channels]."""
    wave = 0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(round(duration_s * rate)) / rate)
    mono = wave.astype(np.float32)
    return mono if channels == 1 else np.stack([mono] * channels, axis=1)


def noise(duration_s: float, rate: int = RATE, level: float = 0.1, seed: int = 0) -> Samples:
    values = np.random.default_rng(seed).standard_normal(round(duration_s * rate))
    return (level * values).astype(np.float32)


def talk(sentences_s: list[float], pause_s: float = 0.5) -> Samples:
    """Return noise in place of sentences, and a little noise in place of the pauses between."""
    parts = []
    for index, duration_s in enumerate(sentences_s):
        parts += [noise(duration_s, seed=index), noise(pause_s, level=1e-3, seed=index)]
    return np.concatenate(parts)


def by_soundfile(
    samples: Samples, rate: int = RATE, format: str = "WAV", subtype: str | None = None
) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, samples, rate, format=format, subtype=subtype)
    return data.getvalue()


def by_pyav(
    samples: Samples,
    rate: int,
    format: str,
    codec: str,
    options: Mapping[str, str] | None = None,
    seekable: bool = True,
    bit_rate: int | None = None,
) -> bytes:
    """Return a file with mono samples.

    seekable: no: the file of a live recording, whose writer cannot go back to its header.
    """
    data = io.BytesIO()
    target: Any = data if seekable else _Pipe(data)
    with av.open(target, "w", format=format, container_options=dict(options or {})) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for each in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(each))
    return data.getvalue()


def opened(data: bytes) -> BinaryIO:
    file = os.fdopen(os.memfd_create("test"), "w+b")
    file.write(data)
    file.flush()
    return file


class _Pipe:
    def __init__(self, data: io.BytesIO) -> None:
        self._data = data

    def write(self, data: bytes) -> int:
        return self._data.write(data)
