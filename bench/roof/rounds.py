"""Two things timed in turn, on a machine whose speed changes by the minute.

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

Turn = Callable[[int], list[float]]  # runs something so many times, and gives the seconds of each


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the report.

    name: what was measured. ratio: what the bar is for. bar: what it is to be at most.
    unit: of ratio and bar, "x" for a plain ratio. facts: the figures behind it.
    """

    name: str
    ratio: float
    bar: float
    facts: dict[str, float]
    unit: str = "x"

    @property
    def passed(self) -> bool:
        return self.ratio <= self.bar

    def line(self) -> str:
        facts = ", ".join(f"{name} {value:.4g}" for name, value in self.facts.items())
        verdict = "ok" if self.passed else "MISSED"
        bar = f"bar {self.bar:g}"
        return f"{self.name:<32} {self.ratio:8.3f} {self.unit:<2} ({bar}: {verdict})  {facts}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of the thing and of what it is compared with: a list of each for every round."""

    high_s: Sequence[Sequence[float]]
    low_s: Sequence[Sequence[float]]

    @property
    def ratios(self) -> list[float]:
        """Of each round's medians."""
        pairs = zip(self.high_s, self.low_s, strict=True)
        return [statistics.median(high) / statistics.median(low) for high, low in pairs]

    def outcome(self, name: str, bar: float, high: str, low: str) -> Outcome:
        """The median ratio beside its bar; the best times, the spread of the rounds."""
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
    """Time both in turn: `repeats` of one, then of the other, which order changing each round."""
    seconds: tuple[list[list[float]], list[list[float]]] = ([], [])
    for number in range(rounds):
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            settle()
            seconds[place].append((high, low)[place](repeats))
    return Timed(*seconds)


def repeated(function: Callable[[], float]) -> Turn:
    """A turn of a function that returns the seconds it took. The first of each turn is not
    counted: it finds its weights out of the cache and its threads asleep."""

    def turn(repeats: int) -> list[float]:
        return [function() for _ in range(repeats + 1)][1:]

    return turn


def settle() -> None:
    """Wait until this process's threads are idle: OpenMP's spin for a while after their work, and
    would take a core from what is timed next. RuntimeError if they never rest."""
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
    return [value for values in rounds for value in values]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that is not exceeded by more than 100 - percent of them (nearest rank).

    ValueError if there are none.
    """
    if not values:
        raise ValueError("no values to take a percentile of")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
