"""Sides of the comparison that embed texts: what they answer, and the memory they take."""

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.embed_peers.catalogue import Precision
from bench.embed_peers.install import INSIDE, PeerError, last_line

Vectors = NDArray[np.float32]
Calls = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class EmbedTurn:
    """Calls that one side has answered. checksum: the sum of all the vectors' values."""

    texts: int
    seconds: float
    checksum: float

    @property
    def rate(self) -> float:
        """Texts a second."""
        return self.texts / self.seconds


class EmbedSide(Protocol):
    """A side: embeds each call's texts at once, one call after the other.

    batches: whether the caller chooses how many texts it runs together.
    """

    name: str
    precision: Precision
    is_ours: bool
    batches: bool

    def run(self, calls: Calls, batch: int) -> EmbedTurn:
        """Answer the calls."""

    def vectors(self, texts: Sequence[str], batch: int) -> Vectors:
        """Return the vectors of texts, a row each."""

    def memory(self) -> list[float]:
        """Return the resident memory of each of its processes in MB, the largest first."""


def tree_memory(pid: int) -> list[float]:
    """Return the memory of a process and of those below it in MB, the largest first.

    A page that several processes have counts once in all.
    """
    root = psutil.Process(pid)
    found = []
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(process.memory_full_info().pss / 1e6)
    return sorted(found, reverse=True)


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Start processes on so many cores: the first of those that this one may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def threads_environment(threads: int) -> Mapping[str, str]:
    """Return an environment in which libraries use so many threads and nothing is fetched."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "TRANSFORMERS_OFFLINE": "1"}
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**plain, **offline, **dict.fromkeys(names, str(threads))}


class EncoderProcess:
    """A library in a process of its own, asked over its pipes."""

    is_ours, batches = False, True

    def __init__(
        self, name: str, precision: Precision, process: "subprocess.Popen[str]", log: Path
    ) -> None:
        self.name, self.precision = name, precision
        self._process, self._log = process, log

    def wait_until_ready(self) -> None:
        """Wait until the model is loaded. Raises PeerError if it does not load."""
        self._read()

    def run(self, calls: Calls, batch: int) -> EmbedTurn:
        """Answer the calls; the seconds are the process's own, without the pipes."""
        answer = self._ask({"calls": calls, "batch": batch})
        texts = sum(len(call) for call in calls)
        return EmbedTurn(texts, float(str(answer["seconds"])), float(str(answer["checksum"])))

    def vectors(self, texts: Sequence[str], batch: int) -> Vectors:
        """Return the vectors of texts."""
        answer = self._ask({"calls": [texts], "batch": batch, "keep": True})
        data = base64.b64decode(str(answer["vectors"]))
        return np.frombuffer(data, np.float32).reshape(len(texts), -1)

    def memory(self) -> list[float]:
        """Return its resident memory in MB."""
        return tree_memory(self._process.pid)

    def _ask(self, request: dict[str, object]) -> dict[str, object]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer tells why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(last_line(self._log.read_text(errors="replace")) or "it ended")
        answer: dict[str, object] = json.loads(line)
        return answer


@contextlib.contextmanager
def encoder(
    name: str, precision: Precision, words: Sequence[str], folder: Path, threads: int
) -> Iterator[EncoderProcess]:
    """Run inside/encoder.py. words: its Python and its arguments. folder: of its log."""
    log = folder / f"{name}.log"
    python, *arguments = words
    with log.open("w") as err, on_cores(threads):
        process = subprocess.Popen(
            [python, str(INSIDE / "encoder.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env=threads_environment(threads),
            cwd=folder,
        )
    with stopped(process):
        side = EncoderProcess(name, precision, process, log)
        side.wait_until_ready()
        yield side


@contextlib.contextmanager
def stopped(process: "subprocess.Popen[str]") -> Iterator[None]:
    """End a process at the end."""
    try:
        yield
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        process.terminate()
        process.wait()
