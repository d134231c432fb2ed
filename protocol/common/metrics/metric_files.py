"""The files in which all processes of a pool keep their metrics (prometheus_client's multiprocess
mode), and the sums of those of dead processes.

Counters must outlive their processes, but a file for each process that ever ran would make scrapes
slower with each restart. So the counters of dead processes are added to sums, which are in a folder
of their own with a list of the files that they contain:

    metrics/counter_71.db, histogram_71.db, gauge_livesum_71.db    of the process 71
    metrics/sums -> sums.4                                         the current sums
    metrics/sums.4/counter_sum.db, histogram_sum.db, in_sums.json

For readers the change of the link is the only step, whenever the writer is killed: before it the
files of a dead process count, and after it they are in the sums and no longer count, whether or not
they have been removed yet. Readers take no lock, so that a frozen one blocks nobody: a reader that
finds the link changed, or a file gone, reads again.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from headrace.protocol.common.atomic_write import replacing, write_atomically
from headrace.protocol.common.file_lock import FileLock
from headrace.protocol.common.metrics.metric_space import INITIAL_BYTES, entry_bytes, reserve_file

# Of these only the sum over all processes is shown.
SUMMED = ("counter", "histogram")
_LINK, _LIST, _LOCK = "sums", "in_sums.json", "sums.lock"
# Each retry needs the death of a process in the milliseconds of a read.
_TRIES = 100


def read(folder: Path) -> list[Metric]:
    """Return the metrics of all processes, each number once.

    Raises OSError if the files change faster than they can be read.
    """
    for _ in range(_TRIES):
        try:
            sums = _current(folder)
            summed = _in_sums(sums)
            files = [*_sum_files(sums), *_live_files(folder, summed)]
            metrics: Iterable[Metric] = MultiProcessCollector.merge(map(str, files))  # type: ignore[no-untyped-call]
            if _current(folder) == sums and _in_sums(sums) == summed:
                return list(metrics)
        except FileNotFoundError:  # a process has died just now
            continue
    raise OSError(f"{folder}: the metrics change faster than they can be read")


def forget(folder: Path, pid: int) -> None:
    """Add the counters of a process that has ended to the sums, and drop its gauges."""
    for file in folder.glob(f"gauge_live*_{pid}.db"):
        file.unlink(missing_ok=True)
    with FileLock(folder / _LOCK):
        _remove_summed(folder)
        dead = [file for kind in SUMMED if _has_content(file := folder / f"{kind}_{pid}.db")]
        if dead:
            _add(folder, dead)
            _remove_summed(folder)


def _add(folder: Path, dead: list[Path]) -> None:
    """Make the next sums from the current ones and some files."""
    old = _current(folder)
    new = folder / f"{_LINK}.{_number(old) + 1}"
    new.mkdir()
    try:
        for kind in SUMMED:
            parts = [*_sum_files(old), *dead]
            _write_sum(new / f"{kind}_sum.db", [each for each in parts if _kind(each) == kind])
        (new / _LIST).write_text(json.dumps([file.name for file in dead]))
        with replacing(folder / _LINK) as link:
            link.symlink_to(new.name)
    except OSError:  # no space: leave none of it in use
        shutil.rmtree(new, ignore_errors=True)
        raise


def _write_sum(target: Path, files: Iterable[Path]) -> None:
    totals: dict[str, float] = {}
    for file in files:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            totals[key] = totals.get(key, 0.0) + value
    reserve_file(str(target), sum(map(entry_bytes, totals)) + INITIAL_BYTES)
    written = MmapedDict(str(target))  # type: ignore[no-untyped-call]
    for key, total in totals.items():
        written.write_value(key, total, 0.0)  # type: ignore[no-untyped-call]
    written.close()  # type: ignore[no-untyped-call]


def _remove_summed(folder: Path) -> None:
    """Remove the files that are in the sums, and those of killed writers; the lock must be held.

    Then the list is emptied: a later process may get the pid of a dead one.
    """
    current = _current(folder)
    if current is not None and (summed := _in_sums(current)):
        for file in summed:
            (folder / file).unlink(missing_ok=True)
        write_atomically(current / _LIST, "[]")
    for left in folder.glob(f"{_LINK}.[0-9]*"):
        if left != current:
            shutil.rmtree(left)


def _live_files(folder: Path, summed: frozenset[str]) -> list[Path]:
    """Return the processes' files that are not in the sums.

    Empty files have no numbers yet, and prometheus_client cannot read them.
    """
    files = [file for file in folder.glob("*.db") if file.name not in summed]
    return [file for file in files if file.stat().st_size]


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _sum_files(sums: Path | None) -> list[Path]:
    return [] if sums is None else [sums / f"{kind}_sum.db" for kind in SUMMED]


def _in_sums(sums: Path | None) -> frozenset[str]:
    return frozenset() if sums is None else frozenset(json.loads((sums / _LIST).read_text()))


def _current(folder: Path) -> Path | None:
    with contextlib.suppress(FileNotFoundError):
        return folder / os.readlink(folder / _LINK)
    return None


def _number(sums: Path | None) -> int:
    return 0 if sums is None else int(sums.name.rpartition(".")[2])


def _kind(file: Path) -> str:
    return file.name.partition("_")[0]
