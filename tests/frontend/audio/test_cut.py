"""Long recordings are cut in pauses, into windows that hold all of their sound."""

import itertools

import numpy as np
import pytest

from headrace.frontend.audio.cut import Cut, Cutter
from tests.frontend.audio.sounds import RATE, Samples, noise, talk, tone

WINDOW_S = 30


def cut(samples: Samples, block: int = 5000) -> list[Cut]:
    cutter = Cutter(RATE, WINDOW_S)
    cuts = []
    for first in range(0, len(samples), block):
        cuts += list(cutter.feed(samples[first : first + block]))
    cuts += list(cutter.end())
    assert cutter.duration_s == len(samples) / RATE
    for each in cuts:
        first = round(each.start_s * RATE)
        assert 0 < len(each.samples) <= WINDOW_S * RATE
        assert np.array_equal(each.samples, samples[first : first + len(each.samples)])
    return cuts


def edges(cuts: list[Cut]) -> list[tuple[float, float]]:
    return [(each.start_s, each.start_s + len(each.samples) / RATE) for each in cuts]


def silence(duration_s: float) -> Samples:
    return np.zeros(round(duration_s * RATE), np.float32)


@pytest.mark.parametrize("duration_s", [0.1, 1.0, 29.99, 30.0])
def test_what_fits_is_one_window(duration_s: float) -> None:
    samples = noise(duration_s)
    samples[: len(samples) // 2] = 0
    assert edges(cut(samples)) == [(0.0, len(samples) / RATE)]


def test_more_than_fits_is_two_windows() -> None:
    assert len(cut(noise(30.01))) == 2


def test_cuts_lie_in_pauses() -> None:
    """Sentences of 2 to 8 s, with pauses of half a second: windows tile the recording."""
    durations = np.random.default_rng(0).uniform(2, 8, 60).tolist()
    samples = talk(durations)
    cuts = edges(cut(samples))
    ends = np.cumsum([each + 0.5 for each in durations])
    assert cuts[0][0] == 0
    assert cuts[-1][1] == len(samples) / RATE
    for (_, end), (start, _) in itertools.pairwise(cuts):
        assert end == pytest.approx(start)
        pause_end = ends[np.searchsorted(ends, start)]
        assert pause_end - 0.4 <= start <= pause_end - 0.1, "amid a pause"
    lengths = [end - start for start, end in cuts[:-1]]
    assert min(lengths) > 20
    assert np.mean(lengths) > 24, "late pauses are preferred"


def test_a_clear_pause_is_preferred_to_a_later_dip() -> None:
    samples = noise(60)
    samples[22 * RATE : int(22.5 * RATE)] *= 0.001
    samples[29 * RATE : int(29.06 * RATE)] *= 0.01
    assert 22.0 < edges(cut(samples))[0][1] < 22.5


def test_without_pauses_windows_are_long() -> None:
    assert all(end - start > 20 for start, end in edges(cut(noise(200)))[:-1])
    assert len(cut(tone(200))) <= 8


@pytest.mark.parametrize("level", [0.0, 1e-5, 1e-4, 3e-4])
def test_silence_and_faint_noise_yield_no_window(level: float) -> None:
    for duration_s in (0.5, 30, 200):
        assert cut(noise(duration_s, level=level)) == []
        assert cut(noise(duration_s, level=level) + np.float32(0.25)) == [], "an offset"


def test_clicks_yield_no_window() -> None:
    samples = silence(100)
    samples[50 * RATE] = 1.0
    assert cut(samples) == []


def test_long_silences_are_in_no_window() -> None:
    samples = np.concatenate(
        [
            silence(100),
            noise(5),
            silence(300),
            noise(40, seed=1),
            silence(100),
            noise(3),
            silence(95),
        ]
    )
    cuts = edges(cut(samples))
    assert [start for start, _ in cuts][:2] == [99.5, 404.5], "half a second before the sound"
    assert [start for start, _ in cuts][-1] == 544.5
    assert len(cuts) == 4
    assert cuts[1][1] == cuts[2][0]
    assert cuts[2][1] >= 445


def test_quiet_speech_is_sound() -> None:
    assert len(cut(noise(3, level=2e-3))) == 1


def test_windows_come_as_soon_as_their_end_is_known() -> None:
    cutter = Cutter(RATE, WINDOW_S)
    assert list(cutter.feed(noise(30))) == []
    assert len(list(cutter.feed(noise(0.1)))) == 1


@pytest.mark.parametrize("block", [1, 160, 999_999, 10**9])
def test_blocks_of_any_size_give_the_same_windows(block: int) -> None:
    samples = talk([3.0] * 20 if block > 1 else [31.0])
    assert edges(cut(samples, block)) == edges(cut(samples))
