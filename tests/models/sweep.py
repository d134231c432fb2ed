"""Examine many architectures, each in a process of its own with limits of time and memory."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import resource
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.models.catalogue import Architecture
from tests.models.outcome import Outcome

_ROOT = str(Path(__file__).parents[2])
SECONDS = 180
MEMORY_BYTES = 12 << 30  # of addresses, most of which are never touched
# What every process needs: imported once, and there in each that is forked.
_PRELOADED = [
    "torch",
    "transformers.generation",
    "headrace.workers.load_runner",
    "tests.models.examine",
]


def sweep(
    chosen: Iterable[Architecture],
    seed: int,
    jobs: int,
    report: Callable[[Outcome], None],
) -> list[Outcome]:
    """Examine the architectures, `jobs` at a time, and report each outcome when it is there."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    # The server of forks has no other way to find what it imports.
    os.environ["PYTHONPATH"] = os.pathsep.join([_ROOT, os.environ.get("PYTHONPATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    waiting, running, outcomes = list(chosen), list[_Running](), list[Outcome]()
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_Running(context, waiting.pop(0), seed))
        multiprocessing.connection.wait([each.process.sentinel for each in running], 0.5)
        for each in list(running):
            outcome = each.outcome()
            if outcome is not None:
                running.remove(each)
                outcomes.append(outcome)
                report(outcome)
    return outcomes


class _Running:
    """A process that examines one architecture."""

    def __init__(
        self,
        context: multiprocessing.context.ForkServerContext,
        architecture: Architecture,
        seed: int,
    ) -> None:
        self._architecture = architecture
        self._receiver, sender = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(
            target=_examine, args=(architecture, seed, sender), daemon=True
        )
        self.process.start()
        sender.close()
        self._deadline = time.monotonic() + SECONDS

    def outcome(self) -> Outcome | None:
        """Return what became of it; None while it runs within its time."""
        if self._receiver.poll():
            with contextlib.suppress(EOFError):
                outcome: Outcome = self._receiver.recv()
                self.process.join(10)
                return outcome
        if self.process.is_alive() and time.monotonic() < self._deadline:
            return None
        reason = f"the process ended with {self.process.exitcode}"
        if self.process.is_alive():
            self.process.kill()
            reason = f"no answer within {SECONDS} s"
        self.process.join()
        return Outcome(self._architecture.name, self._architecture.class_name, "CRASH", reason)


def _examine(
    architecture: Architecture, seed: int, sender: multiprocessing.connection.Connection
) -> None:
    import torch

    from tests.models.examine import examine

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    torch.set_num_threads(1)
    sender.send(examine(architecture, seed))
