"""Make the requests of each second of a day from a seed, or read them from a file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY_S = 86_400
SHORT_BURSTS = 40


def generate(peak: float, seconds: int, seed: int) -> tuple[Floats, Floats]:
    """Return the expected requests of each second, and those that arrived.

    The day has a night, slow noise, short bursts, a flash crowd in the morning that doubles the
    load within half a minute, and an evening outage in front of the pool after which all waiting
    clients return at once. Fewer seconds make a shorter day: bursts and noise last as long as in a
    full day, and there are fewer bursts.
    peak: requests per second at noon, before all that.
    """
    random = np.random.default_rng(seed)
    hour = np.arange(seconds) * 24 / seconds
    sun = 0.5 - 0.5 * np.cos((hour - 4) * 2 * np.pi / 24)
    rate = peak * (0.12 + 0.88 * sun**1.3) * _noise(random, seconds)
    for _ in range(max(1, SHORT_BURSTS * seconds // DAY_S)):
        start, length = random.integers(seconds), random.integers(120, 900)
        burst = np.minimum(1.0, np.hanning(length) * 3)  # comes and goes within a fifth of it
        burst = burst[: seconds - start]
        rate[start : start + len(burst)] *= 1.0 + random.uniform(0.05, 0.3) * burst
    rate *= _flash_crowd(seconds, at=seconds * 10 // 24)
    out = seconds * 20 // 24
    short = min(300, seconds // 20)
    rate[out : out + short] *= 0.2
    rate[out + short : out + 2 * short] *= 1.4
    return rate, random.poisson(rate).astype(float)


def read(file: Path) -> tuple[Floats, Floats]:
    """Read a recorded trace: a line for each second with the number of requests that arrived.

    The expected requests are their mean over a minute.
    """
    came = np.loadtxt(file, dtype=float, ndmin=1)
    return np.convolve(came, np.ones(60) / 60, mode="same"), came


def _noise(random: np.random.Generator, seconds: int) -> Floats:
    """Return factors around 1, with a deviation of 4 % and a correlation over some minutes."""
    steps = random.normal(size=seconds // 60 + 12)
    smooth = np.convolve(steps, np.ones(10) / np.sqrt(10), mode="valid")
    return np.exp(0.04 * np.interp(np.arange(seconds) / 60, np.arange(len(smooth)), smooth))


def _flash_crowd(seconds: int, at: int) -> Floats:
    """Return factors that double the load within half a minute and decay in 15 minutes."""
    since = np.arange(seconds) - at
    rise = np.clip(since / 30.0, 0.0, 1.0)
    return 1.0 + rise * np.exp(-np.clip(since - 30, 0, None) / 900.0)
