"""The frontend's side of its grammar checkers: a few processes, started when first needed.

A checker that dies or takes too long is killed, and the next job gets another. Threads wait for the
answers, each with its own checker, which dies with its thread and so with the frontend.
"""

import asyncio
import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from headrace.frontend.structured.constraint import Constraint

log = logging.getLogger("headrace.frontend.checkers")

NUM_CHECKERS = 2
DEADLINE_S = 3.0
_LOAD_DEADLINE_S = 60.0  # a tokenizer takes a second, longer on a busy machine
_MODULE = "headrace.frontend.structured.checker"
_MAX_ATTEMPTS = 2  # a checker may die for another reason than its job


class CheckFailed(Exception):
    """The constraint cannot be used; the message may be shown to a client."""


class CheckTooExpensive(CheckFailed):
    """Checking the constraint exceeded the limits on time or memory."""


class CheckerUnavailable(Exception):
    """No checker can be started for the model."""


class _CheckerDied(Exception):
    """The checker has died."""


class _CheckerTimedOut(Exception):
    """The checker has not answered in time."""


class CheckerPool:
    """The checkers of a frontend.

    size: processes at most.
    deadline_s: of one check, in seconds.
    """

    def __init__(self, size: int = NUM_CHECKERS, deadline_s: float = DEADLINE_S) -> None:
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="checker")
        self._thread = threading.local()
        self._lock = threading.Lock()  # guards the two attributes below
        self._started: set[_CheckerProcess] = set()
        self._is_closed = False
        self._deadline_s = deadline_s

    def close(self) -> None:
        """Stop all checkers and their threads; running checks fail.

        At the exit of the process it would be too late: Python first waits for threads, and so for
        running checks.
        """
        with self._lock:
            self._is_closed = True
            for checker in self._started:
                checker.end()
        self._threads.shutdown(cancel_futures=True)  # no thread waits for a checker any more
        while self._started:
            self._started.pop().kill()

    async def check(self, model: str, constraint: Constraint) -> str:
        """Return the grammar of a constraint, as text.

        model: the text folder of the model. Raises CheckFailed if there is none.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._check, model, constraint)

    def _check(self, model: str, constraint: Constraint) -> str:
        job = {"model": model, "constraint": asdict(constraint)}
        for _ in range(_MAX_ATTEMPTS):
            try:
                answer = self._checker_for(model).ask(job, self._deadline_s)
            except _CheckerTimedOut:
                raise CheckTooExpensive("it takes too long to compile") from None
            except _CheckerDied:
                continue
            if "error" in answer:
                raise CheckFailed(answer["error"])
            text: str = answer["text"]
            return text
        raise CheckTooExpensive("it takes too much memory to compile")

    def _checker_for(self, model: str) -> "_CheckerProcess":
        """Return this thread's checker, with the model's tokenizer loaded.

        Raises CheckerUnavailable if that fails.
        """
        for _ in range(_MAX_ATTEMPTS):
            checker = self._thread_checker()
            with contextlib.suppress(_CheckerDied, _CheckerTimedOut):
                checker.load(model)
                return checker
        raise CheckerUnavailable

    def _thread_checker(self) -> "_CheckerProcess":
        checker: _CheckerProcess | None = getattr(self._thread, "checker", None)
        if checker is not None and checker.is_alive:
            return checker
        if checker is not None:
            checker.kill()  # it has died; close its pipes
        with self._lock:
            if checker is not None:
                self._started.discard(checker)
            if self._is_closed:
                raise CheckerUnavailable
            checker = self._thread.checker = _CheckerProcess()
            self._started.add(checker)
        return checker


class _CheckerProcess:
    """One process, used by one thread."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, "--parent-pid", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._loaded: set[str] = set()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def load(self, model: str) -> None:
        if model not in self._loaded:
            self.ask({"load": model}, _LOAD_DEADLINE_S)
            self._loaded.add(model)

    def ask(self, job: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return the answer to a job.

        Raises _CheckerDied or _CheckerTimedOut if there is none; the process has ended then.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            self._give_up()
            raise _CheckerDied from error
        line = self._read_line(self._process.stdout.fileno(), time.monotonic() + timeout_s)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _read_line(self, descriptor: int, deadline: float) -> bytes:
        parts = []
        while True:
            poll = select.poll()  # unlike select(), for any number of descriptors
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self._give_up()
                raise _CheckerTimedOut
            parts.append(os.read(descriptor, 1 << 16))
            if not parts[-1]:
                self._give_up()
                raise _CheckerDied
            if parts[-1].endswith(b"\n"):
                return b"".join(parts)

    def _give_up(self) -> None:
        log.warning("a grammar checker failed or timed out; it is replaced")
        self.kill()

    def end(self) -> None:
        """Kill the process, from any thread. A thread that waits for an answer sees its death."""
        self._process.kill()

    def kill(self) -> None:
        """Kill the process and close its pipes."""
        self.end()
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process.wait()
