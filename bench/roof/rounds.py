"""Time two functions in turn, on a machine whose speed changes by the minute.

Only ratios of one round mean something: each round times both, one soon after the other, and the
result is the median of the rounds' ratios.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

PAUSE_S = 0.005
QUIET_SHARE = 0.1
SETTLE_TIMEOUT_S = 2.0

Turn = Callable[[int], list[float]]  # runs a function so many times; returns the seconds of each


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the report.

    name: of the measurement. ratio: its result. bar: the largest ratio that passes.
    unit: of ratio and bar, "x" for a plain ratio. facts: the figures behind it.
    is_least: the bar is the least ratio that passes.
    """

    name: str
    ratio: float
    bar: float
    facts: dict[str, float]
    unit: str = "x"
    is_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the ratio is within the bar."""
        return self.ratio >= self.bar if self.is_least else self.ratio <= self.bar

    def line(self) -> str:
        """Return the outcome as text."""
        facts = ", ".join(f"{name} {value:.4g}" for name, value in self.facts.items())
        verdict = "ok" if self.passed else "MISSED"
        bar = f"bar {self.bar:g}"
        return f"{self.name:<32} {self.ratio:8.3f} {self.unit:<2} ({bar}: {verdict})  {facts}"

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return asdict(self) | {"passed": self.passed}


@dataclass(frozen=True, slots=True)
class Timed:
    """The seconds of two functions that are compared, in lists by round."""

    high_s: Sequence[Sequence[float]]
    low_s: Sequence[Sequence[float]]

    @property
    def ratios(self) -> list[float]:
        """The ratio of the medians, of each round."""
        pairs = zip(self.high_s, self.low_s, strict=True)
        return [statistics.median(high) / statistics.median(low) for high, low in pairs]

    def outcome(self, name: str, bar: float, high: str, low: str) -> Outcome:
        """Return the median ratio with its bar, the median times and the spread of the rounds."""
        highs, lows, ratios = flat(self.high_s), flat(self.low_s), self.ratios
        facts = {
            f"{high} ms": statistics.median(highs) * 1e3,
            f"{low} ms": statistics.median(lows) * 1e3,
            "best over best": min(highs) / min(lows),
            "lowest round": min(ratios),
            "highest round": max(ratios),
        }
        return Outcome(name, statistics.median(ratios), bar, facts)


def alternate(high: Turn, low: Turn, rounds: int, repeats: int) -> Timed:
    """Time both in turn, `repeats` times each; the order changes with every round."""
    seconds: tuple[list[list[float]], list[list[float]]] = ([], [])
    for number in range(rounds):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            settle()
            seconds[index].append((high, low)[index](repeats))
    return Timed(*seconds)


def repeated(function: Callable[[], float]) -> Turn:
    """Return turns of a function that returns its seconds.

    The first call of a turn does not count: its weights are not in the CPU's cache, and its threads
    are asleep.
    """

    def turn(repeats: int) -> list[float]:
        return [function() for _ in range(repeats + 1)][1:]

    return turn


def settle() -> None:
    """Wait until this process's threads are idle.

    OpenMP's threads spin for a while after their work and would take a core from the next timing.
    Raises RuntimeError if they stay busy.
    """
    deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
    while time.monotonic() < deadline_s:
        busy_s, started_s = time.process_time(), time.perf_counter()
        time.sleep(PAUSE_S)
        busy_s, passed_s = time.process_time() - busy_s, time.perf_counter() - started_s
        if busy_s < QUIET_SHARE * passed_s:
            return
    raise RuntimeError(
        f"threads of this process are still busy after {SETTLE_TIMEOUT_S:g} s without work"
    )


def flat(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Return the values of all rounds."""
    return [value for values in rounds for value in values]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile by nearest rank. Raises ValueError if there are no values."""
    if not values:
        raise ValueError("no values to take a percentile of")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
