"""Results of bench.embed: ratios of rounds, the bars that they are to reach, and cosines."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.embed_peers.catalogue import REFERENCE, Precision
from bench.embed_peers.sides import EmbedSide, EmbedTurn, Vectors
from bench.embed_peers.texts import Kind

MEMORY_BAR = 1.3
COSINE_BARS: Mapping[Precision, float] = {"fp32": 0.999999, "bf16": 0.9999}
CHECKSUM_TOLERANCE = 0.5  # a text: rounding stays far below it, other vectors do not


def bar(kind: Kind, at_once: int) -> float | None:
    """Return the least ratio to the best peer of the same precision; None for no bar."""
    if kind != "mixed":
        return None
    return 1.5 if at_once >= 32 else 1.0


@dataclass(frozen=True, slots=True)
class EmbedLoad:
    """The rounds of one load: each side's turns, and the batch size that was its best."""

    kind: Kind
    at_once: int
    turns: Mapping[str, Sequence[EmbedTurn]]
    batches: Mapping[str, int]

    def rate(self, name: str) -> float:
        """Return the median of a side's texts/s."""
        return statistics.median(turn.rate for turn in self.turns[name])

    def ratios(self, ours: str, theirs: str) -> list[float]:
        """Return our texts/s over theirs, of each round."""
        pairs = zip(self.turns[ours], self.turns[theirs], strict=True)
        return [a.rate / b.rate for a, b in pairs]

    def best(self, names: Sequence[str]) -> str:
        """Return the side with the most texts/s."""
        return max(names, key=self.rate)

    def lines(self, sides: Sequence[EmbedSide]) -> list[str]:
        """Return the load as text: for each of our precisions its peers, fastest first."""
        sides = [side for side in sides if side.name in self.turns]
        lines = [f"{self.kind}, {self.at_once} at once, texts/s:"]
        for ours in (side for side in sides if side.is_ours):
            peers = peers_of(ours, sides)
            lines.append(f"  {ours.name} {self.rate(ours.name):.1f}{self._verdict(ours, peers)}")
            lines += [
                f"    {name} {self.rate(name):.1f}{self._batch(name)}, "
                f"ratio {_spread(self.ratios(ours.name, name))}"
                for name in sorted(peers, key=self.rate, reverse=True)
            ]
        return lines + [f"  {note}" for note in self._notes()]

    def _batch(self, name: str) -> str:
        return f" (batch {self.batches[name]})" if name in self.batches else ""

    def _verdict(self, ours: EmbedSide, peers: Sequence[str]) -> str:
        if not peers:
            return ", no peer in this precision"
        best, least = self.best(peers), bar(self.kind, self.at_once)
        ratios = self.ratios(ours.name, best)
        passed = "ok" if least and statistics.median(ratios) >= least else "MISSED"
        told = f" (bar {least:g}: {passed})" if least else ""
        return f", over the best ({best}) {_spread(ratios)}{told}"

    def _notes(self) -> list[str]:
        """Return which sides' vectors cannot be those of the texts."""
        if REFERENCE not in self.turns:
            return []
        wrong = set()
        for name, turns in self.turns.items():
            for turn, right in zip(turns, self.turns[REFERENCE], strict=True):
                off = abs(turn.checksum - right.checksum) / turn.texts
                if not off <= CHECKSUM_TOLERANCE:  # so that NaN shows
                    wrong.add(f"{name}: the vectors' sum is off by {off:.2f} a text")
        return sorted(wrong)

    def as_json(self) -> dict[str, Any]:
        """Return the load as JSON values."""
        rates = {name: [turn.rate for turn in turns] for name, turns in self.turns.items()}
        batches = dict(self.batches)
        return {"kind": self.kind, "at_once": self.at_once, "rates": rates, "batches": batches}


def peers_of(ours: EmbedSide, sides: Sequence[EmbedSide]) -> list[str]:
    """Return the names of the peers that compute in the same precision."""
    return [side.name for side in sides if not side.is_ours and side.precision == ours.precision]


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f}, rounds {min(ratios):.2f} to {max(ratios):.2f}"


def cosines(vectors: Vectors, reference: Vectors) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return the cosine of each row to the reference's."""
    a, b = vectors.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result: np.ndarray[Any, np.dtype[np.float64]] = (a * b).sum(axis=1) / norms
    return result


def cosine_line(side: EmbedSide, vectors: Vectors, reference: Vectors) -> tuple[str, bool]:
    """Return the cosines of a side as text, and whether they are high enough if it is ours."""
    values = cosines(vectors, reference)
    least = COSINE_BARS.get(side.precision) if side.is_ours else None
    good = least is None or bool(values.min() >= least)
    told = f" (bar {least:g}: {'ok' if good else 'MISSED'})" if least else ""
    lowest, mean = values.min(), values.mean()
    return f"  {side.name}: lowest {lowest:.7f}{told}, mean {mean:.7f}", good


def memory_lines(sides: Sequence[EmbedSide], memory: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the memory of all sides as text, and ours over the least of the peers."""
    lines = ["resident memory, MB:"]
    total = {name: sum(parts) for name, parts in memory.items()}
    for side in sides:
        parts = memory[side.name]
        largest = f" (largest of {len(parts)} processes {parts[0]:.0f})" if len(parts) > 1 else ""
        lines.append(f"  {side.name} {total[side.name]:.0f}{largest}")
    for ours in (side for side in sides if side.is_ours):
        if peers := peers_of(ours, sides):
            least = min(peers, key=lambda name: total[name])
            value = total[ours.name] / total[least]
            told = "ok" if value <= MEMORY_BAR else "MISSED"
            lines.append(f"  {ours.name} over {least} {value:.2f} (bar {MEMORY_BAR:g}: {told})")
    return lines
