"""Compare two servers under the same load, in turn: the ratio of their output tokens/s."""

import asyncio
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

from bench.load.cli import SESSIONS_PER_RUN, measure
from bench.load.client import Target
from bench.load.options import Options
from bench.load.processes import ServerProcesses
from bench.load.records import Record, Summary, ratio, summarize
from bench.load.schedule import Load

IDLE_CPU_LIMIT = 0.02  # of a core; above it the idle server has slowed down the loaded one
REST_S = 1.0


@dataclass(frozen=True, slots=True)
class Side:
    """A server and its processes, if they run on this machine."""

    target: Target
    processes: ServerProcesses


@dataclass(frozen=True, slots=True)
class ServerRun:
    """One run of the load on one server while the other was idle.

    short: outputs with fewer tokens than requested.
    idle_cpu: share of a core that the idle server used meanwhile; None if it is unknown.
    """

    summary: Summary
    short: int
    idle_cpu: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The runs of one load on two servers. bar: the least median ratio; None for no bar."""

    load: Load
    first: list[ServerRun]
    second: list[ServerRun]
    bar: float | None

    @property
    def ratios(self) -> list[float]:
        """The first server's output tokens/s over the second's, of each round."""
        rates = [[turn.summary.output_tokens_per_s for turn in turns] for turns in self._sides]
        return [ratio(a, b) for a, b in zip(*rates, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(self.ratios)

    @property
    def passed(self) -> bool:
        """Whether the ratio reaches the bar."""
        return self.bar is None or self.ratio >= self.bar

    @property
    def failed_requests(self) -> int:
        """Requests that failed or whose output was too short."""
        return sum(turn.summary.failed + turn.short for turns in self._sides for turn in turns)

    def line(self) -> str:
        """Return the comparison as text."""
        a, b = (
            statistics.median(turn.summary.output_tokens_per_s for turn in turns)
            for turns in self._sides
        )
        bar = f" (bar {self.bar:g}: {'ok' if self.passed else 'MISSED'})" if self.bar else ""
        rounds = f"rounds {min(self.ratios):.2f} to {max(self.ratios):.2f}"
        return "\n  ".join(
            [
                f"{self.load.label}: A {a:.1f}, B {b:.1f} output tokens/s, "
                f"A/B {self.ratio:.3f}{bar}, {rounds}",
                *self._notes(),
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        sides = [
            [asdict(turn) | {"summary": turn.summary.as_json()} for turn in turns]
            for turns in self._sides
        ]
        return {
            "load": asdict(self.load),
            "ratio": self.ratio,
            "ratios": self.ratios,
            "bar": self.bar,
            "passed": self.passed,
            "A": sides[0],
            "B": sides[1],
        }

    @property
    def _sides(self) -> tuple[list[ServerRun], list[ServerRun]]:
        return self.first, self.second

    def _notes(self) -> list[str]:
        """Return what makes the ratio doubtful."""
        notes = []
        for name, other, turns in (("A", "B", self.first), ("B", "A", self.second)):
            idle = [turn.idle_cpu for turn in turns if turn.idle_cpu is not None]
            if idle and max(idle) > IDLE_CPU_LIMIT:
                notes.append(f"{other}, idle while {name} ran, used {max(idle):.0%} of a core")
            short = sum(turn.short for turn in turns)
            if short:
                notes.append(f"{name}: {short} outputs are shorter than requested")
            for turn in turns:
                notes += [f"{name}: {n} × {error}" for error, n in turn.summary.errors.items()]
        return notes


async def alternate(
    sides: tuple[Side, Side], load: Load, options: Options, first_session: int, bar: float | None
) -> Comparison:
    """Run the load `options.rounds` times on each server, in turn and in alternating order."""
    runs: tuple[list[ServerRun], list[ServerRun]] = ([], [])
    for number in range(options.rounds):
        start = first_session + number * SESSIONS_PER_RUN
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            await asyncio.sleep(REST_S)  # the other server may still clean up
            run = await _run_on(sides[index], sides[1 - index], load, options, start)
            runs[index].append(run)
    return Comparison(load, *runs, bar)


async def _run_on(side: Side, idle: Side, load: Load, options: Options, start: int) -> ServerRun:
    cpu_s, started_s = idle.processes.cpu_s(), time.monotonic()
    records, client_cpu_s = await measure(side.target, load, options, start)
    used_s, passed_s = idle.processes.cpu_s() - cpu_s, time.monotonic() - started_s
    idle_cpu = used_s / passed_s if idle.processes.found else None
    return ServerRun(summarize(records, client_cpu_s), count_short(records, options), idle_cpu)


def count_short(records: list[Record], options: Options) -> int:
    """Count the outputs that are shorter than those of the fixed mix: they took less work."""
    expected = options.mix.output_tokens
    return sum(not record.error and record.output_tokens < expected for record in records)
