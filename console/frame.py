"""Tables of a snapshot."""

from rich import box
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from headrace.console.snapshot import GroupSnapshot, Snapshot, WorkerSnapshot

_ID_CHARS = 14
_COLOURS = {
    "ready": "green",
    "paused": "cyan",
    "asleep": "blue",
    "starting": "yellow",
    "waking": "yellow",
    "falling_asleep": "yellow",
    "draining": "yellow",
    "degraded": "yellow",
    "stopping": "yellow",
    "stalled": "red",
    "unavailable": "red",
    "in_progress": "green",
    "validating": "yellow",
    "finalizing": "yellow",
    "cancelling": "yellow",
}


def frame(now: Snapshot, before: Snapshot | None, url: str, problem: str = "") -> RenderableType:
    """Render a snapshot.

    before: an earlier one, to compute rates from; None: no rates are known.
    problem: why a newer one cannot be had.
    """
    head = Text.assemble(url, "  ", _coloured(now.status), f"  {now.load} requests in flight")
    parts: list[RenderableType] = [head]
    parts += [Text(line, style="bold red") for line in (problem, *now.problems) if line]
    parts += [_workers(group, now, before) for group in now.groups]
    parts.append(_frontends(now))
    if now.batches:
        parts.append(_batches(now, before))
    return Lines(*parts)


def _workers(group: GroupSnapshot, now: Snapshot, before: Snapshot | None) -> Table:
    earlier = _group_of(before, group.name)
    kind, count = ("generated", group.generated) if group.generates else ("read", group.read)
    known_count = None
    if earlier is not None:
        known_count = earlier.generated if group.generates else earlier.read
    rate = _rate(count, known_count, now, before)
    ready = sum(worker.state == "ready" for worker in group.workers)
    title = Text.assemble(
        f"{group.name} ({', '.join(group.models)})  ",
        f"{', '.join(group.tasks)}  " if group.tasks else "",
        f"{ready} of {group.target_size} workers ready  {_number(rate)} {kind} tokens/s",
    )
    # As narrow as possible: names must be whole in a terminal of 80 columns.
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("worker", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("run", "wait", "cache", "tokens/s", "prefix hits", "step", "restarts"):
        table.add_column(name, justify="right")
    known = {worker.name: worker for worker in earlier.workers} if earlier else {}
    for worker in group.workers:
        _add(table, worker, known.get(worker.name), now, before)
    return table


def _add(
    table: Table,
    worker: WorkerSnapshot,
    earlier: WorkerSnapshot | None,
    now: Snapshot,
    before: Snapshot | None,
) -> None:
    hits = worker.hit_rate
    table.add_row(
        worker.name,
        _coloured(worker.state),
        str(worker.running),
        str(worker.waiting),
        f"{worker.cache:.1%}",
        _number(_rate(worker.tokens, earlier.tokens if earlier else None, now, before)),
        "-" if hits is None else f"{hits:.1%}",
        f"{worker.step_age_s:.1f} s" if worker.step_age_s >= 0.1 else "-",
        str(worker.restarts),
    )


def _frontends(now: Snapshot) -> Table:
    table = Table(title="frontends", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("frontend")
    table.add_column("in flight", justify="right")
    for name, in_flight in now.frontends:
        table.add_row(name, str(in_flight))
    return table


def _batches(now: Snapshot, before: Snapshot | None) -> Table:
    table = Table(title="batches", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("batch", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("done", "of", "", "failed", "lines/s"):
        table.add_column(name, justify="right")
    known = {} if before is None else {batch.name: batch for batch in before.batches}
    for batch in now.batches:
        earlier = known.get(batch.name)
        rate = _rate(batch.done, earlier.done if earlier else None, now, before)
        share = f"{batch.done / batch.total:.0%}" if batch.total else "-"
        # The first characters of an id tell batches apart, and leave room for the rest.
        cells = (batch.name[:_ID_CHARS], _coloured(batch.status), f"{batch.done:,}")
        table.add_row(*cells, f"{batch.total:,}", share, f"{batch.failed:,}", _number(rate))
    return table


def _group_of(snapshot: Snapshot | None, name: str) -> GroupSnapshot | None:
    groups = () if snapshot is None else snapshot.groups
    return next((group for group in groups if group.name == name), None)


def _rate(
    value: float, earlier: float | None, now: Snapshot, before: Snapshot | None
) -> float | None:
    """Return a rate; None if it is unknown. A server that was restarted counts from 0."""
    if earlier is None or before is None or now.at <= before.at or value < earlier:
        return None
    return (value - earlier) / (now.at - before.at)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _coloured(state: str) -> Text:
    return Text(state, style=_COLOURS.get(state, ""))
