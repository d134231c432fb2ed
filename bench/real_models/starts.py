"""Measure how soon Headrace and llama.cpp's server are ready with the same GGUF, and their memory.

    python -m bench.real_models.starts MODEL.gguf --llama FOLDER [--rounds 5]

FOLDER holds `llama-server`. First Headrace starts with an empty cache folder: how long that takes,
and what it writes to disk beside the file's size. Then both start in turn, so that other work on
the machine affects both alike. Ready is the first 200 of /health, from the start of the process.
CPU time and memory are those of all processes, at that moment; of memory each has its share of
pages that several map (PSS), pages of the file included.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from bench.beside_llama import Started, headrace, llama

CONTEXT = 8192
MIB = 2**20


def measure(start: Callable[[], AbstractContextManager[Started]], parents: int) -> list[float]:
    """Start a server; return seconds until it is ready, CPU seconds and MiB of its processes.

    parents: how far its first process is above the one that runs the model.
    """
    with start() as server:
        top = server.engine if not parents else server.engine.parents()[parents - 1]
        processes = [top, *top.children(recursive=True)]
        times = [process.cpu_times() for process in processes]
        cpu_s = sum(each.user + each.system for each in times)
        cpu_s += times[0].children_user + times[0].children_system
        memory = sum(process.memory_full_info().pss for process in processes) / MIB
        return [server.start_s, cpu_s, memory]


def show(name: str, values: list[float]) -> None:
    """Print one start."""
    seconds, cpu_s, memory = values
    load = os.getloadavg()[0]
    print(f"{name}: ready after {seconds:.2f} s, CPU {cpu_s:.2f} s, {memory:.0f} MiB, "
          f"load {load:.1f}", flush=True)  # fmt: skip


def main() -> None:
    """Run the rounds of the command line."""
    parser = argparse.ArgumentParser(prog="bench.real_models.starts")
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.gguf")
    add("--llama", type=Path, required=True, metavar="FOLDER", help="the folder of llama-server")
    add("--threads", type=int, default=os.cpu_count() or 1, help="of each server")
    add("--rounds", type=int, default=5)
    given, flags = parser.parse_known_args()
    slots = ["-np", "1", "-c", str(CONTEXT)]
    sides = {
        "Headrace": (lambda: headrace(given.model, given.threads, flags), 1),
        "llama.cpp": (lambda: llama(given.llama, given.model, given.threads, slots), 0),
    }
    with tempfile.TemporaryDirectory(prefix="hr-") as cache:
        os.environ["HEADRACE_CACHE"] = cache
        show("Headrace, first", measure(*sides["Headrace"]))
        written = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file())
        size = given.model.stat().st_size
        print(f"written: {written / MIB:.0f} MiB, the file {size / MIB:.0f} MiB", flush=True)
        found: dict[str, list[list[float]]] = {name: [] for name in sides}
        for _ in range(given.rounds):
            for name, side in sides.items():
                found[name].append(measure(*side))
                show(name, found[name][-1])
    for index, kind in enumerate(("ready after, s", "CPU, s", "memory, MiB")):
        ours, theirs = ([each[index] for each in found[name]] for name in sides)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        medians = [statistics.median(values) for values in (ours, theirs, ratios)]
        print(f"{kind}: {medians[0]:.2f} / {medians[1]:.2f} = {medians[2]:.2f} "
              f"({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
