"""Pools of the fake engine, for benchmarks of one frontend process."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load.layouts import environment, layout_of

START_TIMEOUT_S = 300.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Pool:
    """A running pool of one frontend and at least one worker."""

    url: str
    frontend_pid: int
    worker_pid: int


@contextlib.contextmanager
def pool(
    checkout: Path, model: str | None, step_s: float, flags: Sequence[str] = ()
) -> Iterator[Pool]:
    """Run a pool of a checkout's code. flags: more flags of `headrace serve`."""
    layout = layout_of(checkout)
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        command = [sys.executable, "-m", layout.command, "serve"]
        command += ["--model", model] if model else []
        command += ["--engine", "fake", "--fake-step-s", str(step_s), "--frontends", "1"]
        command += ["--workers", "1", "--port", "0", "--run-dir", f"{folder}/run", *flags]
        log = Path(folder, "log")
        with log.open("w") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment(checkout),
                cwd=checkout,
            )
        try:
            url = wait_until_ready(process, log)
            yield Pool(
                url, _child(process.pid, layout.frontend), _child(process.pid, layout.worker)
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def wait_until_ready(process: "subprocess.Popen[bytes] | subprocess.Popen[str]", log: Path) -> str:
    """Return the pool's URL once it serves. Raises SystemExit with its log if it does not start."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"^Headrace serves .* at (\S+)$", log.read_text(), re.MULTILINE)
        if found and _is_ready(found[1]):
            return found[1]
        time.sleep(0.05)
    raise SystemExit(f"the pool did not start:\n{log.read_text()}")


def _is_ready(url: str) -> bool:
    """Return whether the frontend knows of a worker that is ready."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health"):
        return True
    return False


def _child(parent: int, module: str) -> int:
    """Return the process id of the first child that runs a module."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            is_child = stat.read_text().rpartition(")")[2].split()[1] == str(parent)
            if is_child and module in stat.with_name("cmdline").read_text():
                return int(stat.parent.name)
    raise SystemExit(f"the pool has no process that runs {module}")


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
