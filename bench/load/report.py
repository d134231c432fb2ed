"""Format results: a column for each server, and their ratio if there are two."""

import math
from collections.abc import Sequence

from bench.load.records import Spread, Summary

SPREADS = (("TTFT", "ttft_ms"), ("TPOT", "tpot_ms"), ("ITL", "itl_ms"), ("E2E", "e2e_ms"))
BUSY_CLIENT = 0.7


def table(title: str, names: Sequence[str], summaries: Sequence[Summary]) -> str:
    """Return the summaries of one load as a table; the ratio is the first over the second."""
    rows = [
        ["", *names],
        ["requests ok", *(str(summary.ok) for summary in summaries)],
        ["requests failed", *(str(summary.failed) for summary in summaries)],
        _row("duration s", [summary.duration_s for summary in summaries]),
        _row("requests/s", [summary.requests_per_s for summary in summaries]),
        _row("output tokens/s", [summary.output_tokens_per_s for summary in summaries]),
        _row("content events/s", [summary.content_events_per_s for summary in summaries]),
        _row("total tokens/s", [summary.total_tokens_per_s for summary in summaries]),
    ]
    for label, attribute in SPREADS:
        spreads: list[Spread] = [getattr(summary, attribute) for summary in summaries]
        for part in ("mean", "p50", "p90", "p99"):
            rows.append(_row(f"{label} {part} ms", [getattr(spread, part) for spread in spreads]))
    rows.append(_row("client CPU, cores", [summary.client_cpu for summary in summaries]))
    if len(names) == 2:
        rows[0].append("ratio")
    return "\n".join([title, *_align(rows), *_notes(names, summaries)])


def _row(label: str, values: Sequence[float]) -> list[str]:
    cells = [label, *map(_number, values)]
    if len(values) == 2:
        cells.append(_number(values[0] / values[1]) if values[1] else "-")
    return cells


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}" if value < 1 else f"{value:.2f}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    columns = max(map(len, rows))
    padded = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in padded) for column in range(columns)]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in padded
    ]


def _notes(names: Sequence[str], summaries: Sequence[Summary]) -> list[str]:
    notes = []
    for name, summary in zip(names, summaries, strict=True):
        notes += [f"{name}: {count} × {error}" for error, count in summary.errors.items()]
        if summary.client_cpu > BUSY_CLIENT:
            notes.append(f"{name}: this program was busy {summary.client_cpu:.0%} of the time")
    return notes
