"""Results of bench.speech: ratios of rounds, the bars that they must reach, errors, memory."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.speech.errors import WordErrors
from bench.speech.sides import SpeechSide, SpeechTurn

MEMORY_BAR = 1.3


def bar(at_once: int) -> float:
    """Return the least ratio to the best peer of the same precision."""
    return 1.2 if at_once >= 8 else 1.0


@dataclass(frozen=True, slots=True)
class SpeechLoad:
    """The rounds of one load: each side's turns, its best batch size, its words' errors."""

    title: str
    at_once: int
    turns: Mapping[str, Sequence[SpeechTurn]]
    batches: Mapping[str, int]
    errors: Mapping[str, WordErrors]

    def rate(self, name: str) -> float:
        """Return the median of a side's seconds of audio a second."""
        return statistics.median(turn.rate for turn in self.turns[name])

    def ratios(self, ours: str, theirs: str) -> list[float]:
        """Return our rate over theirs, of each round."""
        pairs = zip(self.turns[ours], self.turns[theirs], strict=True)
        return [a.rate / b.rate for a, b in pairs]

    def lines(self, sides: Sequence[SpeechSide]) -> list[str]:
        """Return the load as text: for each of our precisions its peers, fastest first."""
        sides = [side for side in sides if side.name in self.turns]
        lines = [f"{self.title}, seconds of audio a second (words wrong):"]
        ours = [side for side in sides if side.is_ours]
        for side in ours:
            peers = peers_of(side, sides)
            lines.append(f"  {self._told(side.name)}{self._verdict(side, peers)}")
            for name in sorted(peers, key=self.rate, reverse=True):
                lines.append(
                    f"    {self._told(name)}, ratio {_spread(self.ratios(side.name, name))}"
                )
        shown = {side.precision for side in ours}
        alone = [side.name for side in sides if side.precision not in shown]
        lines += [f"  {self._told(name)}" for name in sorted(alone, key=self.rate, reverse=True)]
        return lines

    def _told(self, name: str) -> str:
        batch = f", batch {self.batches[name]}" if name in self.batches else ""
        return f"{name} {self.rate(name):.1f} ({self.errors[name].rate:.1%}{batch})"

    def _verdict(self, side: SpeechSide, peers: Sequence[str]) -> str:
        if not peers:
            return ", no peer in this precision"
        best, least = max(peers, key=self.rate), bar(self.at_once)
        ratios = self.ratios(side.name, best)
        passed = "ok" if statistics.median(ratios) >= least else "MISSED"
        return f", over the best ({best}) {_spread(ratios)} (bar {least:g}: {passed})"

    def as_json(self) -> dict[str, Any]:
        """Return the load as JSON values."""
        return {
            "title": self.title,
            "at_once": self.at_once,
            "rates": {name: [turn.rate for turn in turns] for name, turns in self.turns.items()},
            "batches": dict(self.batches),
            "word_error_rates": {name: errors.rate for name, errors in self.errors.items()},
        }


def peers_of(ours: SpeechSide, sides: Sequence[SpeechSide]) -> list[str]:
    """Return the names of the peers that compute in the same precision."""
    return [side.name for side in sides if not side.is_ours and side.precision == ours.precision]


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f}, rounds {min(ratios):.2f} to {max(ratios):.2f}"


def memory_lines(sides: Sequence[SpeechSide], memory: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the largest memory of all sides as text, and ours over the least of the peers."""
    lines = ["resident memory, MB, at its largest:"]
    total = {name: sum(parts) for name, parts in memory.items()}
    for side in sides:
        parts = memory[side.name]
        each = f" ({' + '.join(f'{part:.0f}' for part in parts)})" if len(parts) > 1 else ""
        lines.append(f"  {side.name} {total[side.name]:.0f}{each}")
    for ours in (side for side in sides if side.is_ours):
        if peers := peers_of(ours, sides):
            least = min(peers, key=lambda name: total[name])
            value = total[ours.name] / total[least]
            passed = "ok" if value <= MEMORY_BAR else "MISSED"
            lines.append(f"  {ours.name} over {least} {value:.2f} (bar {MEMORY_BAR:g}: {passed})")
    return lines
